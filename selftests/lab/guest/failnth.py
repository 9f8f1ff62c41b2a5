# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Has allocations of the kernel fail, one after the other or now and then, and judges what comes of it.

Needs a kernel with fault injection. `Failing` has the n-th allocation fail that the calling thread makes in an act, n = 1, 2, ...,
until the act ends before its n-th. `Seldom` has allocations under one module's code fail by chance, in softirqs and work
items as well.
"""
import errno
import os
import re
import time

NTH = "/proc/thread-self/fail-nth"
DEBUG = "/sys/kernel/debug"
# All allocations, those that may sleep as well, and quietly.
KNOBS = {"failslab": {"ignore-gfp-wait": "N", "cache-filter": "N", "verbose": "0"},
         "fail_page_alloc": {"ignore-gfp-wait": "N", "ignore-gfp-highmem": "N", "min-order": "0", "verbose": "0"}}
# What a healthy kernel does not say. A stack trace alone is what the allocators print when they fail.
SIGNS = re.compile("BUG:|Oops|WARNING:|KASAN|UBSAN|hung task|blocked for more than|refcount_t|Kernel panic|leaked|"
                   "soft lockup|self-detected|general protection fault|kmemleak:|DMA-API:|locking dep|lock state|list_(add|del) corruption")
# What the kernel says by itself, whoever asks, of: a program's own page fault that found no memory and is tried again;
# any exporter of a dma-buf that has no memory for a mapping (dma_buf_vmap warns of every error of its `vmap`, once);
# the fields of any module's trace events for which there is no memory (event_define_fields, once).
FINE = re.compile(r"VM_FAULT_OOM leaked out to the #PF handler|WARNING: drivers/dma-buf/dma-buf\.c:\d+ at dma_buf_vmap\+|"
                  r"WARNING: kernel/trace/trace_events\.c:\d+ at event_define_fields\+")
# The thunderbolt core frees its own answer while the answer's request is in its list still, and compares an arrival
# with it (tb_xdp_handle_request, tb_xdomain_match). Ours are kept for longer (net/kapi/outbox): one that is freed by
# others counts.
MATCH, ITS_OWN = "KASAN: slab-use-after-free in tb_xdomain_match", "tb_xdp_handle_request"
# What a failing allocation is; ENOBUFS, which the neighbour table says (net/core/neighbour.c), asked by the core for a
# path; and a failing copy from or to user space, which the kernel counts with them.
CODES = (errno.ENOMEM, errno.ENOBUFS, errno.EFAULT)
# An act that has more allocations is not one act.
MOST = 4000


def available():
    return os.path.exists(NTH) and os.path.isdir(f"{DEBUG}/failslab")


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def code_of(error):
    """The errno of an error of Python's or of pyverbs."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    for name in ("error_code", "errno"):
        if isinstance(getattr(error, name, None), int):
            return getattr(error, name)
    found = re.search(r"Errno:? *(\d+)", str(error))
    return int(found[1]) if found else None


def is_fine(lines):
    """Whether the sign in the first of these lines is of the kernel's own."""
    if MATCH in lines[0]:
        freed = next((n for n, line in enumerate(lines) if line.startswith("Freed by")), len(lines))
        return any(ITS_OWN in line for line in lines[freed:freed + 12])
    return bool(FINE.search(lines[0]))


class Complaints:
    """What the kernel says meanwhile. The console, which the lab reads, is quiet: an allocator that fails prints its stack."""

    def __init__(self, mark=None):
        """From now on, or from where this was said: see `say`."""
        self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.file, 0, os.SEEK_SET if mark else os.SEEK_END)
        self.mark = mark
        with open("/proc/sys/kernel/printk") as level:
            self.level = level.read().split()[0]
        put("/proc/sys/kernel/printk", "2")

    def heard(self):
        """The lines since the last time, from the first sign of trouble on."""
        lines = []
        while True:
            try:
                record = os.read(self.file, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # Lines were overwritten before they were read; the next are there.
            lines.append(record.split(";", 1)[-1].split("\n")[0])
        if self.mark in lines:
            lines = lines[lines.index(self.mark) + 1:]
        bad = next((n for n, line in enumerate(lines) if SIGNS.search(line) and not is_fine(lines[n:n + 100])), None)
        return lines[bad:bad + 60] if bad is not None else []

    def end(self):
        put("/proc/sys/kernel/printk", self.level)


class Failing:
    """Acts whose allocations fail one by one, and what was wrong."""

    def __init__(self):
        for place, knobs in KNOBS.items():
            for knob, value in knobs.items():
                if os.path.exists(f"{DEBUG}/{place}/{knob}"):
                    put(f"{DEBUG}/{place}/{knob}", value)
        # None on a kernel without fault injection: every act once, undisturbed, which tries the acts themselves.
        self.file = os.open(NTH, os.O_RDWR) if available() else None
        self.complaints = Complaints()
        self.wrong, self.figures, self.gone = [], {}, []

    def armed(self, number, act):
        """Runs `act` with that allocation failing: what it returned, what it raised, and whether the allocation came."""
        made = error = None
        if self.file is None:
            return act(), None, False
        os.pwrite(self.file, b"%d" % number, 0)
        try:
            made = act()
        except Exception as raised:
            error = raised
        try:
            came = int(os.pread(self.file, 16, 0).split(b"\0")[0]) == 0
        except OSError:
            came = False  # It was this question that failed, by its copy to user space.
        try:
            os.pwrite(self.file, b"0", 0)
        except OSError:
            pass  # As above; nothing is left to fail now.
        return made, error, came

    def blame(self, name, number, what):
        if len(self.wrong) < 100:
            self.wrong.append(f"{name}, allocation {number}: {what}")

    def listen(self, name, number):
        for line in self.complaints.heard():
            self.blame(name, number, line)

    def each(self, name, act, undo=lambda made: None, before=lambda: None, allowed=CODES, check=lambda made: None):
        """Every allocation of `act` once. `before` comes first and `undo` afterwards, undisturbed. After each failure the
        act must succeed; `check` says what is wrong with what it made, whether or not an allocation failed."""
        failed = borne = 0
        for number in range(1, MOST):
            before()
            made, error, came = self.armed(number, act)
            if error is None:
                borne += came
                trouble = check(made)
                if trouble:
                    self.blame(name, number, trouble)
                try:
                    undo(made)
                except Exception as again:
                    self.blame(name, number, f"its end: {again!r}")
            else:
                failed += 1
                if not came:
                    self.blame(name, number, f"fails by itself: {error!r}")
                elif code_of(error) not in allowed:
                    self.blame(name, number, f"{code_of(error)}: {error!r}")
                try:
                    before()
                    made = act()
                    trouble = check(made)
                    if trouble:
                        self.blame(name, number, f"the next time: {trouble}")
                    undo(made)
                except Exception as again:
                    self.blame(name, number, f"the next time: {again!r}")
            self.listen(name, number)
            if not came or len(self.wrong) >= 100:
                break
        else:
            self.blame(name, MOST, "there is no end of its allocations")
        self.figures[name] = [number - 1, failed, borne]

    def each_end(self, name, make, end):
        """Every allocation of the end of something: it ends, or says ENOMEM and ends the next time."""
        failed = 0
        for number in range(1, MOST):
            made = make()
            _, error, came = self.armed(number, lambda: end(made))
            if error is not None:
                failed += 1
                if not came or code_of(error) not in CODES:
                    self.blame(name, number, f"{code_of(error)}: {error!r}")
                try:
                    end(made)
                except Exception as again:
                    # The old commands of uverbs end it first, and then copy out what they say of it. Kept, as Python's
                    # end of it would end whatever has its number by then.
                    self.gone.append(made)
                    if (code_of(error), code_of(again)) != (errno.EFAULT, errno.ENOENT):
                        self.blame(name, number, f"the next time: {again!r}")
            self.listen(name, number)
            if not came:
                break
        self.figures[name] = [number - 1, failed, number - 1 - failed]

    def finish(self):
        time.sleep(0.2)
        self.listen("at the end", 0)
        self.complaints.end()
        return {"wrong": self.wrong, "figures": self.figures}


class Seldom:
    """While it is open, allocations under a module's code fail with a probability in percent, at most `times` of each
    allocator. Whatever context makes them."""

    def __init__(self, module, percent, times):
        with open("/proc/modules") as file:
            words = next(words for words in map(str.split, file) if words[0] == module)
        start, size = int(words[5], 16), int(words[1])
        self.knobs = {"require-start": f"{start:#x}", "require-end": f"{start + size:#x}", "stacktrace-depth": "32",
                      "task-filter": "N", "interval": "1", "space": "0", "times": str(times), "probability": str(percent)}
        self.places = [place for place in KNOBS if os.path.exists(f"{DEBUG}/{place}/require-start")]

    def __enter__(self):
        for place in self.places:
            for knob, value in self.knobs.items():
                put(f"{DEBUG}/{place}/{knob}", value)
        return self

    def __exit__(self, *_):
        """How many failed is in `failed`. Another process may have entered with as many `times`."""
        self.failed = 0
        for place in self.places:
            with open(f"{DEBUG}/{place}/times") as file:
                self.failed += int(self.knobs["times"]) - int(file.read())
            for knob, value in (("probability", "0"), ("times", "1"), ("require-start", "0"), ("require-end", "0xffffffffffffffff")):
                put(f"{DEBUG}/{place}/{knob}", value)
