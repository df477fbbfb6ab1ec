"""Lets torch-fidelity be imported without torchvision, which it names for what is not run here."""

import sys
import unittest.mock

for name in ("", ".transforms", ".transforms.functional", ".datasets", ".models"):
    sys.modules["torchvision" + name] = unittest.mock.MagicMock()
