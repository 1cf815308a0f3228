# SPDX-License-Identifier: LGPL-2.1-or-later
"""scripts/test, once its tools are installed: which parts run, and how each is judged."""

import argparse
import concurrent.futures
import glob
import os
import platform
import re
import secrets
import select
import shutil
import subprocess
import sys
import time
import typing

import leftovers
from results import Results

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRATCH = os.path.realpath(os.environ.get("VMSNAPFS_TEST_DIR", "/var/tmp/vmsnapfs-test"))
SUPPRESSIONS = os.path.join(CHECKOUT, "scripts", "test.d", "tsan.supp")
CLANG_FORMAT_MAJOR = "14"  # versions differ in what they find well-formed; this is Debian 12's
PLAIN = ["-Dtests=true", "-Dwerror=true", "-Dbuildtype=debugoptimized"]  # also where the directory was configured for something else
FUZZ_SECONDS = 10
FUZZ_SEED = 1
SEED = 20261130  # of the random tests in --all, so that it says the same twice; --soak has new ones
SOAK_SECONDS = 3600
SOAK_IN_CI_SECONDS = 60
AT_ONCE = 3 * os.cpu_count()  # mounted tests wait more than they compute
SIDE_BY_SIDE = os.cpu_count() + 1  # of fuzzers, which compute, and soaks, which wait
SILENCE_SECONDS = 900  # a program that says nothing for so long hangs, and would keep CI waiting for ever


class Check(typing.NamedTuple):
    """A program that is run beside others; what it said is shown where it fails, or if not `quiet`."""

    name: str
    command: list
    environment: dict = {}
    quiet: bool = True


class Run:
    """One run of this script: its token, its scratch directory, what it found out."""

    def __init__(self):
        self.results = Results()
        self.token = secrets.token_hex(8)
        self.reports = os.path.join(SCRATCH, "sanitizer")
        self.lock = leftovers.take_scratch(SCRATCH, self.token)
        self.seed = {}

    def environment(self, **more):
        return {**self.seed, **os.environ, leftovers.TOKEN_VARIABLE: self.token, "TMPDIR": self.temporary(), **more}

    def temporary(self):
        path = os.path.join(SCRATCH, "tmp")
        os.makedirs(path, exist_ok=True)
        return path

    def follow(self, command, echo, environment):
        """Runs a command to its end: (None or what went wrong, its output)."""
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = bytearray()
        while select.select([process.stdout], [], [], SILENCE_SECONDS)[0]:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                status = process.wait()
                return f"ended with status {status}" if status else None, output.decode(errors="replace")
            output += chunk
            if echo:
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
        there = "; ".join(line for _pid, line in leftovers.processes_of(self.token))
        leftovers.end_all(self.token)
        process.wait()
        return f"said nothing for {SILENCE_SECONDS} s while these ran: {there}", output.decode(errors="replace")

    def side_by_side(self, checks, at_once):
        """Runs the Checks as `command` does, so many at once; what each says comes as one."""
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            begun = {pool.submit(self.timed, check.command, check.environment): check for check in checks}
            for done in concurrent.futures.as_completed(begun):
                (status, output, seconds), check = done.result(), begun[done]
                if status or not check.quiet:
                    print(output, flush=True)
                self.results.add(f"{check.name} ({seconds:.0f} s)", f"{check.command[0]} {status}" if status else None)

    def timed(self, command, environment):
        start = time.monotonic()
        status, output = self.follow(command, False, environment)
        return status, output, time.monotonic() - start

    def command(self, name, command, quiet=True, **environment):
        """Runs a command as one check; its output is shown where it fails, or if not `quiet`."""
        start = time.monotonic()
        status, output = self.follow(command, not quiet, environment)
        if status and quiet:
            print(output, flush=True)
        self.results.add(
            f"{name} ({time.monotonic() - start:.0f} s)",
            f"{command[0]} {status}" if status else None,
        )
        return not status

    def build(self, name, compiler="gcc", options=(), targets=()):
        """Configures and builds CHECKOUT/`name`, or some targets in it; whether that worked."""
        directory = os.path.join(CHECKOUT, name)
        setup = ["meson", "setup", directory, CHECKOUT, *options]
        if os.path.exists(os.path.join(directory, "build.ninja")):
            setup.insert(2, "--reconfigure" if configured_for(directory, compiler) else "--wipe")
        return self.command(f"{name}: configure", setup, CC=compiler) and self.command(
            f"{name}: build", ["ninja", "-C", directory, *targets]
        )

    def tests(self, name, suites=(), without=(), **environment):
        """Runs the meson tests of a build, or only some suites of it, and counts each."""
        directory = os.path.join(CHECKOUT, name)
        log = os.path.join(directory, "meson-logs", "testlog.json")
        if os.path.exists(log):
            os.unlink(log)
        command = ["meson", "test", "-C", directory, "--print-errorlogs", "--num-processes", str(AT_ONCE)]
        for suite in suites:
            command += ["--suite", suite]
        for suite in without:
            command += ["--no-suite", suite]
        if environment:
            # Sanitizers of that age need addresses that are not spread as far as newer kernels spread them.
            command = ["setarch", platform.machine(), "--addr-no-randomize", *command]
        status, _output = self.follow(command, True, environment)
        failures = len(self.results.failures)
        if os.path.exists(log):
            self.results.add_meson_log(name, log)
        # Where tests failed they have been counted; else it was meson itself, or it hung and was ended.
        if status and (len(self.results.failures) == failures or not status.startswith("ended")):
            self.results.add(f"{name}: tests", f"meson test {status}")

    def sanitized(self, kind, suites, without=()):
        """Builds with a sanitizer and runs tests; a report of any process, also of a daemon, is a failure."""
        name = "build-" + {"address": "asan", "thread": "tsan"}[kind]
        sanitize = {"address": "address,undefined", "thread": "thread"}[kind]
        # With sanitizers gcc warns of what can't happen; the plain builds are those that must be free of warnings.
        if not self.build(name, "gcc", [f"-Db_sanitize={sanitize}", "-Dwerror=false"]):
            return
        shutil.rmtree(self.reports, ignore_errors=True)
        os.makedirs(self.reports, mode=0o777)
        os.chmod(self.reports, 0o777)  # a test may drop its privileges
        common = f"log_path={self.reports}/report"
        self.tests(
            name,
            suites,
            without,
            ASAN_OPTIONS=f"{common}:detect_leaks=1",
            UBSAN_OPTIONS=f"{common}:print_stacktrace=1:halt_on_error=1",
            TSAN_OPTIONS=f"{common}:halt_on_error=1:second_deadlock_stack=1:suppressions={SUPPRESSIONS}",
        )
        reports = []
        for path in glob.glob(f"{self.reports}/*"):
            with open(path, encoding="utf-8", errors="replace") as file:
                reports.append(file.read())
        # One of each kind in full.
        kinds = {(re.findall(r"^SUMMARY.*|^.*runtime error.*", text, re.MULTILINE) or ["?"])[0]: text for text in reports}
        for text in kinds.values():
            print(text[:8000], flush=True)
        self.results.add(f"{name}: no reports", f"{len(reports)} reports: {'; '.join(kinds)}" if reports else None)

    def format(self):
        program = shutil.which(f"clang-format-{CLANG_FORMAT_MAJOR}") or shutil.which("clang-format")
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        if not re.search(rf"version {CLANG_FORMAT_MAJOR}\.", version):
            self.results.skip("clang-format", f"needs version {CLANG_FORMAT_MAJOR}, this is {version.strip()}")
            return
        files = []
        for folder in ("core", "fs", "mount-helper", "tests"):
            for suffix in ("c", "h"):
                files += glob.glob(f"{CHECKOUT}/{folder}/**/*.{suffix}", recursive=True)
        self.command("clang-format", [program, "--dry-run", "--Werror", *sorted(files)])

    def python_names(self):
        """Names that are not defined, or imported and not used: what no compiler finds in the tests and scripts."""
        files = [path for folder in ("scripts", "tests") for path in glob.glob(f"{CHECKOUT}/{folder}/**/*.py", recursive=True)]
        self.command("pyflakes", ["pyflakes3", *sorted(files), os.path.join(CHECKOUT, "scripts", "vmsnap")])

    def demo(self):
        """Twice, so that the second clears the first away; then --clean, so that nothing is left."""
        directory = os.path.join(SCRATCH, "demo")
        environment = {"VMSNAPFS_DEMO_DIR": directory, "VMSNAPFS_BUILD_DIR": os.path.join(CHECKOUT, "build")}
        for turn in ("first", "second"):
            if self.command(f"demo, {turn} run", ["scripts/demo"], **environment):
                there = os.path.exists(os.path.join(directory, "mnt", "web1", "tree.txt"))
                self.results.add(f"demo, {turn} run leaves it mounted", None if there else "it is not mounted")
        self.command("demo --clean", ["scripts/demo", "--clean"], **environment)

    def fuzzers(self):
        """Builds them. Each starts from its kept corpus, and looks for more for a short while: for side_by_side."""
        sources = sorted(glob.glob(f"{CHECKOUT}/tests/fuzz/fuzz_*.c"))
        targets = [os.path.relpath(source, CHECKOUT).removesuffix(".c") for source in sources]
        options = ["-Dfuzzers=true", "-Dwerror=false", "-Db_sanitize=address,undefined", "-Dc_args=-fsanitize=fuzzer-no-link"]
        if not self.build("build-fuzz", "clang", options, targets):
            return []
        checks = []
        for target in targets:
            name = os.path.basename(target).removeprefix("fuzz_")
            corpus = os.path.join(CHECKOUT, "tests", "fuzz", "corpus", name)
            found = os.path.join(SCRATCH, "fuzz", name)
            os.makedirs(found, exist_ok=True)
            command = [
                os.path.join(CHECKOUT, "build-fuzz", target),
                f"-max_total_time={FUZZ_SECONDS}",
                f"-seed={FUZZ_SEED}",
                "-print_final_stats=0",
                f"-artifact_prefix={found}/",
                found,
                *([corpus] if os.path.isdir(corpus) else []),
            ]
            checks.append(Check(f"fuzz {name}", command))
        return checks

    def soaks(self, seconds, only_others=False):
        """The models of administration and of domains that run, with crashes, for long, and without; and running domains with
        crashes at each step: for side_by_side. Each prints the seed that repeats it. `only_others`: no more than a part of
        what is no test of the suite."""
        folder = os.path.join(CHECKOUT, "tests", "fs")
        if not self.build("build", "gcc", PLAIN, ["fs/vmsnapfs"]):
            return []
        environment = {
            "VMSNAPFS": os.path.join(CHECKOUT, "build", "fs", "vmsnapfs"),
            "VMSNAPFS_TEST_CRASH_POINTS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        models = (
            ("model with crashes", ["test_model.py", "test_crashes"], seconds),
            ("model of domains that run, with crashes", ["test_model_running.py", "test_crashes"], seconds),
            ("model", ["test_model.py", "test_sequences"], seconds // 4),
            ("model of domains that run", ["test_model_running.py", "test_sequences"], seconds // 4),
        )
        others = (
            ("running domains with crashes", ["test_running_crashes.py", *(["test_crashes_mixed"] if only_others else [])], seconds),
            ("running domains that go back, with crashes", ["test_running_revert_crashes.py", *(["test_killed_again"] if only_others else [])], seconds),
            ("copies of disks with crashes", ["test_mirror_crashes.py"], seconds),
        )
        return [
            Check(name, [sys.executable, "-u", os.path.join(folder, test[0]), *test[1:]], {**environment, "VMSNAPFS_TEST_SECONDS": str(share)}, False)
            for name, test, share in (*(() if only_others else models), *others)
        ]

    def end(self):
        left = leftovers.look(SCRATCH, self.token)
        leftovers.clear(SCRATCH, self.token)
        os.rmdir(SCRATCH)
        self.results.add("nothing is left mounted or running", "; ".join(left) if left else None)
        self.results.print_summary()
        return 1 if self.results.failures else 0


def configured_for(directory, compiler):
    """Whether a build directory was made with this compiler: meson can't change it afterwards."""
    try:
        with open(os.path.join(directory, "meson-logs", "meson-log.txt"), encoding="utf-8", errors="replace") as file:
            return re.search(rf"^C compiler for the host machine: .*\({compiler} ", file.read(), re.MULTILINE) is not None
    except OSError:
        return False


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/test", description="Builds vmsnapfs and runs its tests.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="the unit tests only")
    what.add_argument("--sanitize", choices=("address", "thread"), help="under ASan and UBSan, or TSan, in build-asan, build-tsan")
    what.add_argument("--all", action="store_true", help="everything: both compilers and sanitizers, fuzzers, bench, demo")
    what.add_argument("--soak", nargs="?", type=int, const=SOAK_SECONDS, metavar="SECONDS",
                      help="administration against its model, with the daemon killed again and again, for an hour")
    parser.add_argument("--cc", choices=("gcc", "clang"), default="gcc", help="the compiler (build, or build-clang)")
    return parser.parse_args()


def main():
    options = arguments()
    run = Run()
    if options.all:
        run.seed = {"VMSNAPFS_SEED": str(SEED)}
        run.format()
        run.python_names()
        if run.build("build", "gcc", PLAIN):
            run.tests("build")
        run.build("build-clang", "clang", PLAIN)  # its warnings; `scripts/test --cc clang` runs the tests, too
        run.sanitized("address", ["unit", "image"])
        run.sanitized("thread", ["unit"], ["of_one_thread"])
        # The bench is there to see whether it works; beside other things its figures say nothing. It empties the host's page
        # cache, which some of the unit tests look at.
        bench = Check("bench --quick", [os.path.join(CHECKOUT, "scripts", "bench"), "--quick"])
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            measured = beside.submit(run.side_by_side, [bench], 1)
            run.sanitized("address", ["fs"])
            run.sanitized("thread", ["fs"])
            measured.result()
        run.side_by_side([*run.soaks(SOAK_IN_CI_SECONDS, only_others=True), *run.fuzzers()], SIDE_BY_SIDE)
        run.demo()
    elif options.soak:
        run.side_by_side(run.soaks(options.soak), os.cpu_count())
    elif options.sanitize:
        run.sanitized(options.sanitize, [])
    else:
        name = "build" if options.cc == "gcc" else "build-clang"
        if run.build(name, options.cc, PLAIN):
            run.tests(name, ["unit"] if options.quick else [])
    return run.end()


if __name__ == "__main__":
    sys.exit(main())
