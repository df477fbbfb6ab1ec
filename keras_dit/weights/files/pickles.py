"""The pickles of PyTorch files, read and written without running any.

A pickle is a program for a stack machine, and one of its instructions calls what it names: to
load a pickle is to trust its author. Here the standard library takes it apart (`pickletools`),
and of the machine there is only what tensors in dicts need. A name is never looked up: it is
compared with the four that such files hold, and for each stands a line of this module. A training
program may have left names of its own in it, as PyTorch Lightning does: they are read past, and
nothing that is called by them is.
"""

import pickletools
import struct
from typing import NamedTuple

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_CALLS = {"OrderedDict", "_rebuild_tensor_v2", "_rebuild_parameter", "Namespace"}
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "argparse Namespace",
    *(f"torch {storage}" for storage in STORAGES),
}
_LEFT_BY = ("pytorch_lightning.", "lightning.")  # names that are read past
_VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(NamedTuple):
    """A name that a pickle may hold, such as "FloatStorage"."""

    name: str


class View(NamedTuple):
    """A tensor as a pickle describes it: a window on a storage."""

    storage: tuple
    offset: int
    shape: tuple
    strides: tuple


class RefusedError(ValueError):
    """A pickle asks for what tensors do not need."""


def read(stream):
    """The next pickle of a binary stream.

    Returns:
        dicts, lists, tuples, numbers and text, with a `View` for each tensor. A Namespace comes
        as a dict.

    Raises:
        RefusedError: for a name or an instruction outside of what is known here.
        ValueError, or whatever Python raises, for bytes that are no pickle.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        machine.run(opcode.name, argument)
    return machine.pop()


class _Machine:
    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def pop(self):
        return self.stack.pop()

    def pop_to_mark(self):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def run(self, opcode, argument):
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode not in _INSTRUCTIONS:
            raise RefusedError(f"it holds the pickle instruction {opcode}, which no weights need")
        else:
            _INSTRUCTIONS[opcode](self, argument)

    def nothing(self, argument):
        pass

    def mark(self, argument):
        self.marks.append(len(self.stack))

    def tuple(self, argument):
        self.stack.append(tuple(self.pop_to_mark()))

    def put(self, index):
        self.memo[index] = self.stack[-1]

    def memoize(self, argument):
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index):
        self.stack.append(self.memo[index])

    def append(self, argument):
        item = self.pop()
        self._top(list).append(item)

    def appends(self, argument):
        items = self.pop_to_mark()
        self._top(list).extend(items)

    def set_item(self, argument):
        value, key = self.pop(), self.pop()
        self._top(dict)[key] = value

    def set_items(self, argument):
        items = self.pop_to_mark()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def name(self, argument):
        if argument.startswith(_LEFT_BY):
            self.stack.append(Name(argument.replace(" ", ".")))
            return
        if argument not in _NAMES:
            raise RefusedError(f"it asks for {argument.replace(' ', '.')}, which no weights need")
        self.stack.append(Name(argument.partition(" ")[2]))

    def storage(self, argument):
        self.stack.append(_checked(self.pop(), tuple))  # ("storage", type, key, device, length)

    def call(self, argument):
        arguments, called = _checked(self.pop(), tuple), _checked(self.pop(), Name).name
        if called not in _CALLS:
            raise RefusedError(f"it calls {called}, which makes no tensor")
        if called == "_rebuild_tensor_v2":
            self.stack.append(View(*arguments[:4]))
        elif called == "_rebuild_parameter":
            self.stack.append(_checked(arguments[0], View))
        else:
            self.stack.append(dict(*arguments))

    def build(self, state):
        state = self.pop()  # of a Namespace its attributes, of an OrderedDict nothing of interest
        if not self._top(dict) and isinstance(state, dict):
            self.stack[-1].update(state)

    def _top(self, kind):
        return _checked(self.stack[-1], kind)


def _checked(value, kind):
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


_INSTRUCTIONS = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "STOP": _Machine.nothing,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
}


def write(shapes, names=()):
    """The pickle of a state dict of contiguous float32 tensors; tensor i is in storage "i".

    Args:
        shapes: {name: shape}.
        names: of a checkpoint, under each of which the state dict stands; none: it is the content.

    Returns:
        bytes, which PyTorch loads with `weights_only=True`.
    """
    tensors = (_text(name) + _tensor(i, shape) for i, (name, shape) in enumerate(shapes.items()))
    state = _dict(tensors)
    content = _dict(_text(name) + state for name in names) if names else state
    return b"\x80\x02" + content + b"."  # protocol, STOP


def _dict(items):
    return _EMPTY_DICT + b"(" + b"".join(items) + b"u"  # SETITEMS


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(number):
    return b"J" + struct.pack("<i", number)


def _tuple(*items):
    return b"(" + b"".join(items) + b"t"


_EMPTY_DICT = b"ccollections\nOrderedDict\n)R"


def _tensor(index, shape):
    strides = [1]
    for size in reversed(shape):
        strides.insert(0, strides[0] * size)
    length, *strides = strides
    storage = _tuple(
        _text("storage"), b"ctorch\nFloatStorage\n", _text(str(index)), _text("cpu"),
        _number(length),
    ) + b"Q"  # fmt: skip
    arguments = _tuple(
        storage, _number(0), _tuple(*map(_number, shape)), _tuple(*map(_number, strides)),
        b"\x89", _EMPTY_DICT,  # no gradient, no hooks
    )  # fmt: skip
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
