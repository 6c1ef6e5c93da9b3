"""Programs on emulated boards: how they start, speak, read, count, fail and end."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from qcompiler.errors import TargetError
from qcompiler.targets.cmsis_nn import emulator
from qcompiler.targets.cmsis_nn.boards import BOARDS, Board
from qcompiler.targets.cmsis_nn.host import STRICT

MISSING = emulator.missing_tools()
emulated = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.core)
each_timer = pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3", "cortex-m33", "cortex-m55"])
M3 = BOARDS["cortex-m3"]

HEAD = """
#include "counter.h"
#include "semihosting.h"
static void line(const char *label, uint64_t number) {
  semihosting_write(label);
  semihosting_write_number(number);
  semihosting_write("\\n");
}
/* Two instructions a turn, whatever the core. */
static void spin(uint32_t turns) {
  __asm__ volatile(".syntax unified\\n1: subs %0, %0, #1\\n bne 1b" : "+l"(turns) : : "cc");
}
typedef void (*function)(void);
"""


def build(board: Board, folder: Path, code: str, *definitions: str) -> Path:
    source = folder / "program.c"
    source.write_text(HEAD + code)
    return emulator.build(board, [source], [], folder / "program.elf", definitions=definitions)


def run(board: Board, folder: Path, code: str, *definitions: str) -> emulator.Run:
    return emulator.run(board, build(board, folder, code, *definitions), folder=folder, timeout_seconds=60)


def test_every_core_that_the_target_knows_has_a_board() -> None:
    descriptor = tomllib.loads((emulator.SUPPORT.parent / "descriptor.toml").read_text(encoding="utf-8"))
    devices = descriptor["device"]
    cores = {device.get("core", name) for name, device in devices.items() if name != "host"}
    assert {core for core in cores if core.startswith("cortex-m")} <= set(BOARDS)
    assert all((emulator.SUPPORT / board.linker_script).is_file() for board in BOARDS.values())


# -- starting and ending -----------------------------------------------------------------------------------------------


@emulated
@every_board
def test_a_program_finds_its_memory_and_hands_back_what_it_says(board: Board, tmp_path: Path) -> None:
    code = """
    static const char odd[] = "seventeen and one"; /* data follow constants at an odd address, unless it is rounded */
    static volatile uint8_t initialized[5] = {1, 2, 3, 4, 5};
    static volatile uint32_t zeroed[3];
    int main(void) {
      semihosting_write(odd);
      semihosting_write("\\n");
      line("sum ", initialized[0] + initialized[4] + zeroed[0] + zeroed[2]);
      line("big ", 12345678901234567890U);
      semihosting_write_hex(0x1234ABCU);
      return 7;
    }"""
    done = run(board, tmp_path, code)
    assert done.output == "seventeen and one\nsum 6\nbig 12345678901234567890\n01234abc"
    assert done.exit_code == 7
    assert done.number("sum") == 6
    assert done.number("seventeen") is None
    size = emulator.sizes(tmp_path / "program.elf")
    assert 500 < size.text < 3000
    assert 0 < size.data <= 16
    assert 0 < size.bss <= 48


@emulated
@every_board
def test_units_for_floats_and_vectors_are_on(board: Board, tmp_path: Path) -> None:
    code = """
    #if defined(__ARM_FEATURE_MVE)
    #include <arm_mve.h>
    static int32_t total(const int8_t *x) { return vaddvq_s8(vldrbq_s8(x)); }
    #else
    static int32_t total(const int8_t *x) { int32_t sum = 0; for (int i = 0; i < 16; ++i) sum += x[i]; return sum; }
    #endif
    static volatile float half = 0.5f;
    static const int8_t *volatile where;
    int main(void) {
      static const int8_t numbers[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -16};
      where = numbers;
      return (int)((float)total(where) * half);
    }"""
    assert run(board, tmp_path, code).exit_code == 52


@emulated
@every_board
def test_a_board_states_the_path_that_the_library_takes(board: Board, tmp_path: Path) -> None:
    """By the macros that CMSIS-NN's arm_nn_math_types.h asks."""
    code = """
    int main(void) {
    #if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
      semihosting_write("mve");
    #elif defined(__ARM_FEATURE_DSP)
      semihosting_write("dsp");
    #else
      semihosting_write("c");
    #endif
      return 0;
    }"""
    assert run(board, tmp_path, code).output == board.path


@emulated
@every_board
def test_a_model_of_several_megabytes_has_room(board: Board, tmp_path: Path) -> None:
    code = """
    enum { SIZE = 3584 * 1024 };
    static const uint8_t weights[SIZE] = {[SIZE - 1] = 40};
    static uint8_t arena[SIZE];
    static const uint8_t *volatile from = weights;
    static uint8_t *volatile to = arena;
    int main(void) {
      to[0] += 1U;
      to[SIZE - 1] += 1U;
      return from[SIZE - 1] + to[0] + to[SIZE - 1];
    }"""
    assert run(board, tmp_path, code).exit_code == 42


@emulated
@every_board
def test_support_code_compiles_without_a_warning(board: Board, tmp_path: Path) -> None:
    sources = sorted(map(str, emulator.SUPPORT.glob("*.c")))
    definitions = [f"-D{item}" for item in board.definitions]
    for optimise in ("-Os", "-O3"):
        command = ["arm-none-eabi-gcc", *board.flags, *STRICT, optimise, *definitions, "-c", *sources]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


# -- faults ------------------------------------------------------------------------------------------------------------


@emulated
@every_board
def test_a_jump_to_nowhere_is_reported(board: Board, tmp_path: Path) -> None:
    done = run(board, tmp_path, "int main(void) { ((function)0xA0000001U)(); return 0; }")
    assert done.exit_code == 99
    assert done.output.startswith("fault: PC 0xa0000000, LR 0x")
    assert "CFSR 0x00000001" in done.output  # IACCVIOL


@emulated
@every_board
def test_an_undefined_instruction_is_reported(board: Board, tmp_path: Path) -> None:
    code = """
    __attribute__((naked)) static void broken(void) { __asm__ volatile("udf #0"); }
    int main(void) {
      semihosting_write_hex((uint32_t)(uintptr_t)broken - 1U);
      semihosting_write(" ");
      broken();
      return 0;
    }"""
    done = run(board, tmp_path, code)
    where = done.output.split()[0]
    assert done.exit_code == 99
    assert f"fault: PC 0x{where}, " in done.output
    assert "CFSR 0x00010000" in done.output  # UNDEFINSTR


@emulated
def test_a_bad_address_is_named(tmp_path: Path) -> None:
    done = run(M3, tmp_path, "int main(void) { return *(volatile int *)0xA0000004U; }")
    assert done.exit_code == 99
    assert "CFSR 0x00008200, address 0xa0000004\n" in done.output  # PRECISERR, BFARVALID


@emulated
@pytest.mark.parametrize(("core", "code"), [("cortex-m0plus", 99), ("cortex-m3", 5)])
def test_the_stand_in_for_m0plus_refuses_unaligned_words_too(core: str, code: int, tmp_path: Path) -> None:
    text = """
    static uint8_t bytes[8] __attribute__((aligned(4))) = {0, 5};
    static uint8_t *volatile where = bytes + 1;
    int main(void) { return (int)*(volatile uint32_t *)where; }"""
    assert run(BOARDS[core], tmp_path, text).exit_code == code


@emulated
def test_a_core_that_locks_up_is_an_error(tmp_path: Path) -> None:
    program = build(
        M3,
        tmp_path,
        'int main(void) { __asm__ volatile("mov sp, %0\\n udf #0" : : "r"(0xA0000000U)); return 0; }',
    )
    with pytest.raises(TargetError, match=r"cortex-m3 \(mps2-an385\) gave up[^$]*Lockup"):
        emulator.run(M3, program, timeout_seconds=60)


@emulated
def test_a_program_that_does_not_end_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    program = build(M3, tmp_path, 'int main(void) { semihosting_write("so far\\n"); for (;;) { } }')
    with pytest.raises(TargetError, match=r"not ended after 1\.5 seconds. It wrote:\nso far"):
        emulator.run(M3, program, timeout_seconds=1.5)


# -- counting ----------------------------------------------------------------------------------------------------------

COUNTED = """
int main(void) {
  static const uint32_t turns[] = {10000, 100000, 1000000, 2000000};
  static const char *const labels[] = {"a ", "b ", "c ", "d "};
  for (uint32_t i = 0; i < 4U; ++i) {
    counter_start();
    spin(turns[i]);
    line(labels[i], counter_read());
  }
  return 0;
}"""


def ticks(board: Board, number: float) -> float:
    """Instructions of some ticks of the timer."""
    return number * 1e9 / board.clock


@emulated
@every_board
def test_the_counter_counts_instructions(board: Board, tmp_path: Path) -> None:
    program = build(board, tmp_path, COUNTED)
    done = emulator.run(board, program)
    for label, turns in (("a", 10_000), ("b", 100_000), ("c", 1_000_000), ("d", 2_000_000)):
        assert done.number(label) == pytest.approx(2 * turns, abs=ticks(board, 2))
    assert emulator.run(board, program) == done


@emulated
@each_timer
def test_the_counter_counts_over_wraps(core: str, tmp_path: Path) -> None:
    board = BOARDS[core]
    done = run(board, tmp_path, COUNTED, "COUNTER_RELOAD=999U")  # a wrap every 31,250 to 50,000 instructions
    for label, turns in (("a", 10_000), ("b", 100_000), ("c", 1_000_000), ("d", 2_000_000)):
        interrupts = 10 * 2 * turns / ticks(board, 1000)
        assert done.number(label) == pytest.approx(
            2 * turns + interrupts / 2, abs=interrupts / 2 + ticks(board, 2)
        )


@emulated
@each_timer
@pytest.mark.parametrize("period", [8, 33, 1000])
def test_the_counter_never_jumps(core: str, period: int, tmp_path: Path) -> None:
    """Reads around wraps: an interrupt that is late would show as a step of a whole period, forwards or back."""
    code = """
    int main(void) {
      counter_start();
      uint64_t last = counter_read();
      uint64_t largest = 0;
      for (uint32_t i = 0; i < 20000U; ++i) {
        const uint64_t now = counter_read();
        if (now < last) {
          return 1;
        }
        largest = now - last > largest ? now - last : largest;
        last = now;
      }
      line("largest ", largest);
      return 0;
    }"""
    board = BOARDS[core]
    done = run(board, tmp_path, code, f"COUNTER_RELOAD={period - 1}U")
    assert done.exit_code == 0
    assert 0 < (done.number("largest") or 0) <= ticks(board, 4)


@emulated
@pytest.mark.slow
def test_the_counter_counts_beyond_a_full_period(tmp_path: Path) -> None:
    code = 'int main(void) { counter_start(); spin(400000000U); line("count ", counter_read()); return 0; }'
    assert 2**24 * ticks(M3, 1) < 800_000_000
    assert run(M3, tmp_path, code).number("count") == pytest.approx(800_000_000, abs=ticks(M3, 3))


@emulated
def test_without_counting_a_program_runs_as_well(tmp_path: Path) -> None:
    program = build(M3, tmp_path, "int main(void) { return 3; }")
    assert emulator.run(M3, program, count=False, timeout_seconds=60).exit_code == 3


# -- files -------------------------------------------------------------------------------------------------------------


@emulated
@every_board
def test_a_program_reads_files(board: Board, tmp_path: Path) -> None:
    code = """
    static uint8_t all[400];
    static uint8_t part[100];
    int main(void) {
      line("all ", (uint64_t)semihosting_read_file("vectors.bin", all, sizeof(all)));
      line("capped ", (uint64_t)semihosting_read_file("vectors.bin", part, sizeof(part)));
      const int32_t file = semihosting_open("vectors.bin");
      line("first ", (uint64_t)semihosting_read(file, part, 100));
      line("second ", (uint64_t)semihosting_read(file, part, 100));
      line("byte ", part[99]);
      line("missing ", (uint64_t)semihosting_read(file, all + 200, 100));
      semihosting_close(file);
      uint32_t sum = 0;
      for (uint32_t i = 0; i < 256U; ++i) {
        sum += (i + 1U) * all[i];
      }
      line("sum ", sum);
      return semihosting_read_file("none.bin", all, sizeof(all)) < 0 && semihosting_open("none.bin") < 0 ? 0 : 1;
    }"""
    content = bytes((37 * place + 11) % 256 for place in range(256))
    (tmp_path / "vectors.bin").write_bytes(content)
    done = run(board, tmp_path, code)
    assert done.exit_code == 0
    read = {
        label: done.number(label) for label in ("all", "capped", "first", "second", "byte", "missing", "sum")
    }
    assert read == {
        "all": 256, "capped": 100, "first": 0, "second": 0, "byte": content[199], "missing": 44,
        "sum": sum((place + 1) * value for place, value in enumerate(content)),
    }  # fmt: skip


# -- errors ------------------------------------------------------------------------------------------------------------


@emulated
def test_what_the_compiler_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"does not compile the project for cortex-m3:\n.*program\.c"):
        build(M3, tmp_path, "int main(void) { return nothing; }")


@emulated
def test_a_program_that_leaves_no_stack_is_not_linked(tmp_path: Path) -> None:
    code = "uint8_t huge[8 * 1024 * 1024 - 4096]; int main(void) { return huge[0]; }"
    with pytest.raises(TargetError, match="no 16 KB of RAM are left for the stack"):
        build(M3, tmp_path, code)


@emulated
def test_sizes_of_what_is_no_program(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    with pytest.raises(TargetError, match="cannot read"):
        emulator.sizes(text)


@emulated
def test_the_toolchain_names_its_versions() -> None:
    found = emulator.toolchain()
    assert found is not None
    assert "arm-none-eabi-gcc" in found.compiler
    assert "QEMU" in found.emulator
    assert found.compiler_path.is_file()
    assert found.emulator_path.is_file()
    assert str(found) == f"{found.compiler}; {found.emulator}"


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    emulator.toolchain.cache_clear()
    try:
        assert emulator.toolchain() is None
    finally:
        emulator.toolchain.cache_clear()
    with pytest.raises(TargetError, match="arm-none-eabi-gcc is not installed"):
        emulator.build(M3, [], [], tmp_path / "x.elf")
    with pytest.raises(TargetError, match="arm-none-eabi-size is not installed"):
        emulator.sizes(tmp_path / "x.elf")
    with pytest.raises(TargetError, match="qemu-system-arm is not installed"):
        emulator.run(M3, tmp_path / "x.elf")
