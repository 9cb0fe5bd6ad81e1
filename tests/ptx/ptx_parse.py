"""PTX text, as nvcc writes it, to arrays, entries and instructions.

Names in the braces of inline assembly are made unique by a suffix, so that an entry has one flat list of instructions.
Everything that is not understood is a PtxError with its line.
"""

from __future__ import annotations

import bisect
import re
import struct

import numpy as np
from ptx_error import PtxError
from ptx_operands import Names, parse_operands
from ptx_program import Array, Entry, Instruction, Module, Param
from ptx_types import KINDS

_LINE_DIRECTIVES = (".version", ".target", ".address_size", ".file", ".loc ", ".loc\t", ".alias")
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_BOUNDS = (".maxntid", ".reqntid", ".minnctapersm", ".maxnctapersm", ".maxnreg", ".noreturn")
_IGNORED_BOUNDS = (".maxclusterrank", ".explicitcluster", ".reqnctapercluster", ".pragma", ".blocksareclusters")
_ARRAY = re.compile(
    r"\.(?P<space>shared|local|global|const)\s+(?:\.attribute\(\w+\)\s*)?(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<kind>\w+)\s+(?P<name>[\w$%]+)(?P<dims>(?:\s*\[\d*\])*)\s*(?:=\s*(?P<value>.*))?$",
    re.DOTALL,
)
_PARAM = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+[.\w\s]*?)?([\w$%]+)\s*(?:\[(\d+)\])?$")
_LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
_INSTRUCTION = re.compile(
    r"(?:@(?P<not>!)?(?P<guard>[\w$%]+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>.*)$", re.DOTALL
)


def parse(text: str) -> Module:
    """Raises PtxError for what it does not understand."""
    return _Parser(text).module()


def _blank(comment: re.Match) -> str:
    """Spaces in place of a comment, so that places stay what they are."""
    return re.sub(r"[^\n]", " ", comment.group())


class _Parser:
    """Reads statements one after the other; `at` is a position in the text without comments."""

    def __init__(self, text: str) -> None:
        self.text = re.sub(r"//[^\n]*|/\*.*?\*/", _blank, text, flags=re.DOTALL)
        self.at = 0
        self.newlines = [match.start() for match in re.finditer("\n", self.text)]
        self.target = ""
        self.arrays: dict[str, Array] = {}
        self.entries: dict[str, Entry] = {}

    def module(self) -> Module:
        while self.skip():
            if self.starts(_LINE_DIRECTIVES):
                line = self.until("\n")
                if line.startswith(".target"):
                    self.target = line.split()[1].rstrip(",")
                continue
            words = self.linkage()
            if self.starts((".entry",)):
                entry = self.entry()
                self.entries[entry.name] = entry
            elif self.starts((".func",)):
                self.skip_function()
            elif self.starts((".section",)):
                self.until("{")
                self.until("}")
            else:
                array = self.array(self.until(";"), ".extern" in words)
                self.arrays[array.name] = array
        return Module(self.target, self.entries, self.arrays)

    # Text

    def skip(self) -> bool:
        """Moves to the next character that is no space; False at the end."""
        match = re.compile(r"\s*").match(self.text, self.at)
        self.at = match.end()
        return self.at < len(self.text)

    def starts(self, words: tuple[str, ...]) -> bool:
        return any(self.text.startswith(word, self.at) for word in words)

    def until(self, end: str) -> str:
        """The text before `end`, which is passed over too. Quotes are not looked into: nvcc's hold no semicolons."""
        stop = self.text.find(end, self.at)
        if stop < 0:
            raise self.error(f"no {end!r} before the end")
        found = self.text[self.at : stop]
        self.at = stop + len(end)
        return found.strip()

    @property
    def line(self) -> int:
        return bisect.bisect_left(self.newlines, self.at) + 1

    def error(self, what: str) -> PtxError:
        return PtxError(f"line {self.line} of the PTX: {what}: {self.text[self.at : self.at + 60].splitlines()[:1]}")

    def linkage(self) -> set[str]:
        words = set()
        while match := re.compile(r"(\.\w+)\s+").match(self.text, self.at):
            if match.group(1) not in _LINKAGE:
                break
            words.add(match.group(1))
            self.at = match.end()
        return words

    # Declarations

    def array(self, text: str, extern: bool) -> Array:
        match = _ARRAY.match(text)
        if not match or match["kind"] not in KINDS:
            raise PtxError(f"line {self.line} of the PTX: the interpreter does not know the declaration `{text}`")
        kind = KINDS[match["kind"]]
        dims = [int(d or 0) for d in re.findall(r"\[(\d*)\]", match["dims"])]
        size = kind.size * int(np.prod(dims)) if dims else kind.size
        data = None
        if match["space"] in ("global", "const") and not extern:
            data = _initial(match["value"], kind.dtype, text).ljust(size, b"\0")
        return Array(match["name"], match["space"], size, int(match["align"] or kind.size), data)

    def entry(self) -> Entry:
        self.until(".entry")
        name = re.compile(r"[\w$]+").match(self.text, self.at + self.spaces()).group()
        self.at += self.spaces() + len(name)
        params: list[Param] = []
        self.skip()
        if self.text[self.at] == "(":
            self.at += 1
            params = _params([part.strip() for part in self.until(")").split(",") if part.strip()], self)
        entry = Entry(name, params)
        while self.skip() and self.text[self.at] != "{":
            words = re.compile(r"[^\n{]*").match(self.text, self.at).group()
            if not words.startswith(_BOUNDS + _IGNORED_BOUNDS):
                raise self.error("the interpreter does not know this directive")
            if words.startswith((".maxntid", ".reqntid")):
                threads = int(np.prod([int(number) for number in re.findall(r"\d+", words)]))
                if words.startswith(".reqntid"):
                    entry.required_threads = threads
                entry.most_threads = threads
            self.at += len(words)
        self.at += 1
        _Body(self, entry).read()
        return entry

    def spaces(self) -> int:
        return len(re.compile(r"\s*").match(self.text, self.at).group())

    def skip_function(self) -> None:
        """Passes over a .func: a call of one is an error where it stands."""
        match = re.compile(r"[^;{]*([;{])").match(self.text, self.at)
        self.at = match.end()
        depth = 1 if match.group(1) == "{" else 0
        while depth:
            match = re.compile(r"[^{}]*([{}])").match(self.text, self.at)
            self.at = match.end()
            depth += 1 if match.group(1) == "{" else -1


class _Body:
    """The statements of an entry, with the scopes of names."""

    def __init__(self, parser: _Parser, entry: Entry) -> None:
        self.parser, self.entry = parser, entry
        self.scopes: list[dict[str, str]] = [{}]
        self.made = 0

    def read(self) -> None:
        parser = self.parser
        pending: list[tuple[Instruction, str, list[dict[str, str]]]] = []
        while True:
            if not parser.skip():
                raise parser.error("an entry does not end")
            if parser.text[parser.at] == "{":
                parser.at += 1
                self.scopes.append({})
            elif parser.text[parser.at] == "}":
                parser.at += 1
                self.scopes.pop()
                if not self.scopes:
                    break
            elif parser.starts((".loc ", ".loc\t", ".file")):
                parser.until("\n")
            elif label := _LABEL.match(parser.text, parser.at):
                parser.at = label.end()
                self.label(self.define(label.group(1)))
            else:
                line, text = parser.line, self.statement()
                if text.startswith("."):
                    self.declare(text)
                else:
                    pending.append((*self.instruction(line, text), list(self.scopes)))
        for instruction, operands, scopes in pending:
            names = Names(lambda name, s=scopes: _resolve(name, s), lambda name: bool(self.entry.register_kind(name)))
            instruction.operands = parse_operands(operands, instruction, names)
            if instruction.guard:
                instruction.guard = (names.resolve(instruction.guard[0]), instruction.guard[1])

    def statement(self) -> str:
        return " ".join(self.parser.until(";").split())

    def label(self, name: str) -> None:
        parser = self.parser
        parser.skip()
        if parser.starts((".branchtargets",)):
            targets = self.statement().removeprefix(".branchtargets")
            self.entry.tables[name] = tuple(target.strip() for target in targets.split(","))
        elif parser.starts((".callprototype",)):
            self.statement()
        else:
            self.entry.labels[name] = len(self.entry.instructions)

    def define(self, name: str) -> str:
        """The unique name of a label or register that this scope declares."""
        unique = name
        if len(self.scopes) > 1:
            self.made += 1
            unique = f"{name}@{self.made}"
        self.scopes[-1][name] = unique
        return unique

    def declare(self, text: str) -> None:
        if text.startswith(".reg"):
            words = re.match(r"\.reg\s*\.(\w+)\s+(.*)$", text)
            if not words or words.group(1) in ("v2", "v4"):
                raise PtxError(f"line {self.parser.line} of the PTX: unknown declaration `{text}`")
            kind = words.group(1)
            for name in (part.strip() for part in words.group(2).split(",")):
                family = re.match(r"([\w$%]+)<(\d+)>$", name)
                if family and len(self.scopes) == 1:
                    self.entry.families[family.group(1)] = (kind, int(family.group(2)))
                elif family:
                    for i in range(int(family.group(2))):
                        self.entry.registers[self.define(f"{family.group(1)}{i}")] = kind
                else:
                    self.entry.registers[self.define(name)] = kind
        elif text.startswith((".shared", ".local", ".extern")):
            array = self.parser.array(text.removeprefix(".extern").strip(), text.startswith(".extern"))
            self.entry.arrays[array.name] = array
        elif not text.startswith(".pragma"):
            raise PtxError(f"line {self.parser.line} of the PTX: unknown statement `{text}`")

    def instruction(self, line: int, text: str) -> tuple[Instruction, str]:
        """The instruction without its operands, and their text: labels further down are not known yet."""
        match = _INSTRUCTION.match(text)
        if not match:
            raise PtxError(f"line {line} of the PTX: this is no instruction: `{text}`")
        name, *parts = match["opcode"].split(".")
        guard = (match["guard"], bool(match["not"])) if match["guard"] else None
        instruction = Instruction(len(self.entry.instructions), line, text, name, tuple(parts), (), guard)
        self.entry.instructions.append(instruction)
        return instruction, match["operands"]


def _resolve(name: str, scopes: list[dict[str, str]]) -> str:
    """The unique name of what `name` means in the innermost of these scopes that knows it."""
    return next((scope[name] for scope in reversed(scopes) if name in scope), name)


def _params(texts: list[str], parser: _Parser) -> list[Param]:
    params, offset = [], 0
    for text in texts:
        match = _PARAM.match(" ".join(text.split()))
        if not match or match.group(2) not in KINDS:
            raise parser.error(f"unknown parameter `{text}`")
        align, kind, name, count = match.groups()
        item = KINDS[kind].size
        size = item * int(count or 1)
        step = int(align or item)
        offset = -(-offset // step) * step
        params.append(Param(name, kind, size, offset))
        offset += size
    return params


def _initial(value: str | None, dtype: np.dtype, text: str) -> bytes:
    if value is None:
        return b""
    numbers = [part.strip() for part in value.strip().strip("{}").replace("{", "").replace("}", "").split(",")]
    return b"".join(_constant(number, dtype, text) for number in numbers if number)


def _constant(number: str, dtype: np.dtype, text: str) -> bytes:
    if match := re.match(r"0[fF]([0-9a-fA-F]{8})$", number):
        return struct.pack("<I", int(match.group(1), 16))
    if match := re.match(r"0[dD]([0-9a-fA-F]{16})$", number):
        return struct.pack("<Q", int(match.group(1), 16))
    try:
        whole = int(number.rstrip("U"), 0)
    except ValueError:
        raise PtxError(f"the interpreter does not know the value {number} in `{text}`") from None
    return (whole % (1 << (8 * dtype.itemsize))).to_bytes(dtype.itemsize, "little")
