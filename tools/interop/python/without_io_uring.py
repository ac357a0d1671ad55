"""Runs a program for which io_uring_setup is refused, as in many containers: `without_io_uring.py PROGRAM ARGUMENTS…`."""

import ctypes
import errno
import os
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
# The same number on every architecture that has the call.
IO_URING_SETUP = 425
BPF_LOAD_WORD_ABSOLUTE = 0x20
BPF_JUMP_IF_EQUAL = 0x15
BPF_RETURN = 0x06


class Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint32),
    ]


class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


def main():
    # The system call's number is the first word of what a filter sees.
    filter_ = (Instruction * 4)(
        Instruction(BPF_LOAD_WORD_ABSOLUTE, 0, 0, 0),
        Instruction(BPF_JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        Instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
        Instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    program = Program(len(filter_), filter_)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) != 0:
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
