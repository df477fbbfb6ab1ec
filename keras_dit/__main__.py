"""`python -m keras_dit` is the command keras-dit."""

import sys

from keras_dit.cli import main

sys.exit(main())
