#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""fail-module.py MODULE: every allocation of the load and of the unload of a module fails once. It is not loaded before, nor
afterwards. Prints one JSON object, as failing.py.
"""
import ctypes
import failnth
import json
import os
import subprocess
import sys

# x86_64
FINIT_MODULE, DELETE_MODULE = 313, 176
libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    if libc.syscall(number, *arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main():
    name = sys.argv[1]
    if not failnth.available():
        print(json.dumps({"absent": "this kernel has no fault injection"}))
        return
    path = subprocess.run(["modinfo", "-n", name], capture_output=True, text=True, check=True).stdout.strip()
    failing = failnth.Failing()
    file = os.open(path, os.O_RDONLY)

    def load():
        call(FINIT_MODULE, file, b"", 0)

    def unload(_):
        call(DELETE_MODULE, name.encode(), os.O_NONBLOCK)

    failing.each("module load", load, unload)
    failing.each_end("module unload", load, unload)
    print(json.dumps(failing.finish()))


main()
