"""As much of Lean 4 as `Obligations.lean` uses: its definitions are parsed with Lean's precedences and run.

Types are read over, so what is wrong in them alone is not seen.
"""

import re
from functools import reduce

_TOKEN = re.compile(r"[A-Za-z_][\w']*(?:\.[A-Za-z][\w']*)*|\.[A-Za-z]\w*|\.\d+|\d+|#\[|:=|=>|::|\+\+|&&|\|\||==|\S")
_BINARY = {"||": 30, "&&": 35, "=": 50, "==": 50, "<": 50, "≤": 50, "++": 65, "+": 65, "-": 65, "::": 67}
_BINARY |= {"*": 70, "/": 70, "^": 75}
_WORDS = {"fun", "let", "if", "then", "else", "by"}
_APPLY = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "≤": lambda a, b: a <= b,
    "++": lambda a, b: a + b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "::": lambda a, b: [a, *b],
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "^": lambda a, b: a**b,
}
_METHODS = {
    "size": len,
    "isEmpty": lambda a: not a,
    "toList": lambda a: a,
    "reverse": lambda a: a[::-1],
    "getD": lambda a, k, blank: a[k] if k < len(a) else blank,
    "contains": lambda a, v: v in a,
    "any": lambda a, f: any(f(v) for v in a),
    "all": lambda a, f: all(f(v) for v in a),
    "map": lambda a, f: [f(v) for v in a],
    "filter": lambda a, f: [v for v in a if f(v)],
    "foldl": lambda a, f, first: reduce(f, a, first),
}
_GLOBAL = {
    "true": True,
    "false": False,
    "decide": lambda v: v,
    "List.range": lambda n: list(range(n)),
    "Int.fdiv": lambda a, b: a // b,
}


class _Reader:
    """One command; every term becomes a function of the names that are bound."""

    def __init__(self, text, known):
        self.known = known
        lines = [0, *(m.end() for m in re.finditer("\n", text))]
        self.tokens = [(m[0], m.start() - max(k for k in lines if k <= m.start())) for m in _TOKEN.finditer(text)]
        self.at, self.left = 0, -1

    def peek(self):
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, wanted=None):
        token = self.peek()
        assert token, "the command ends early"
        assert wanted in (None, token), f"{token} where {wanted} belongs"
        self.at += 1
        return token

    def skip_to(self, *ends):
        depth = 0
        while self.peek() and (depth or self.peek() not in ends):
            depth += (self.peek() in "([") - (self.peek() in ")]")
            self.at += 1

    def term(self, least=0):
        left = self.prefix()
        while _BINARY.get(self.peek(), -1) >= least:
            sign = self.take()
            level = _BINARY[sign]
            right = self.term(level if sign == "::" else level + 1)
            left = self.joined(sign, left, right)
        return left

    @staticmethod
    def joined(sign, left, right):
        if sign == "&&":
            return lambda s: left(s) and right(s)
        if sign == "||":
            return lambda s: left(s) or right(s)
        return lambda s: _APPLY[sign](left(s), right(s))

    def prefix(self):
        token = self.peek()
        if token == "!":
            self.take()
            value = self.term(40)
            return lambda s: not value(s)
        if token == "-":
            self.take()
            value = self.term(75)
            return lambda s: -value(s)
        if token == "fun":
            return self.function()
        if token == "let":
            return self.let()
        if token == "if":
            self.take()
            test, _, yes, _, no = self.term(), self.take("then"), self.term(), self.take("else"), self.term()
            return lambda s: yes(s) if test(s) else no(s)
        head, rest = self.atom(), []
        while self.argument():
            rest.append(self.atom())
        if not rest:
            return head
        return lambda s: head(s)(*(one(s) for one in rest))

    def argument(self):
        """Whether an argument follows: it has to stand to the right of the `let` that is open, as in Lean."""
        token = self.peek()
        if not token or token in _WORDS or self.tokens[self.at][1] <= self.left:
            return False
        return token in ("(", "[", "#[") or token[0].isalnum() or token[0] == "_"

    def function(self):
        self.take("fun")
        names = []
        while self.peek() != "=>":
            names.append(self.take())
        self.take("=>")
        body = self.term()
        return lambda s: lambda *values: body({**s, **dict(zip(names, values, strict=True))})

    def let(self):
        outer, self.left = self.left, self.tokens[self.at][1]
        self.take("let")
        name, _, value = self.take(), self.take(":="), self.term()
        self.left = outer
        if self.peek() == ";":
            self.take()
        body = self.term()
        return lambda s: body({**s, name: value(s)})

    def atom(self):
        token = self.take()
        if token == "(":
            inside = self.several(")")
            assert inside
            value = inside[-1]
            for one in inside[-2::-1]:
                value = self.pair(one, value)
        elif token in ("[", "#["):
            parts = self.several("]")
            value = lambda s: [one(s) for one in parts]  # noqa: E731
        elif token.isdigit():
            value = lambda s, number=int(token): number  # noqa: E731
        else:
            value = self.name(token)
        while self.peek()[:1] == ".":
            value = self.field(value, self.take()[1:])
        return value

    @staticmethod
    def pair(one, other):
        return lambda s: (one(s), other(s))

    def several(self, end):
        outer, self.left = self.left, -1
        found = []
        while self.peek() != end:
            found.append(self.term())
            if self.peek() != end:
                self.take(",")
        self.take(end)
        self.left = outer
        return found

    def name(self, token):
        if token in _GLOBAL:
            return lambda s: _GLOBAL[token]
        first, *fields = token.split(".")
        known = self.known
        value = lambda s: s[first] if first in s else known[first]  # noqa: E731
        for one in fields:
            value = self.field(value, one)
        return value

    @staticmethod
    def field(value, name):
        if name.isdigit():
            return lambda s: value(s)[int(name) - 1]
        method = _METHODS[name]
        if name in ("size", "isEmpty", "toList", "reverse"):
            return lambda s: method(value(s))
        return lambda s: lambda *rest: method(value(s), *rest)

    def pattern(self):
        token = self.take()
        if token == "[":
            self.take("]")
            return lambda v: None if v else {}
        if token.isdigit():
            return lambda v: {} if v == int(token) else None
        if self.peek() == "+":
            self.take()
            more = int(self.take())
            return lambda v: {token: v - more} if v >= more else None
        return lambda v: {token: v}


def _definition(reader):
    """The value of `def`: a function of its parameters and of what it matches, or what it is."""
    names = []
    while reader.peek() == "(":
        reader.take()
        while reader.peek() != ":":
            names.append(reader.take())
        reader.skip_to(")")
        reader.take(")")
    reader.skip_to(":=", "|")
    if reader.peek() == ":=":
        reader.take()
        body = reader.term()
        assert reader.at == len(reader.tokens), f"{reader.peek()} is left over"
        return (lambda *values: body(dict(zip(names, values, strict=True)))) if names else body({})
    ways = []
    while reader.peek() == "|":
        reader.take()
        patterns = [reader.pattern()]
        while reader.peek() == ",":
            reader.take()
            patterns.append(reader.pattern())
        reader.take("=>")
        ways.append((patterns, reader.term()))
    assert reader.at == len(reader.tokens), f"{reader.peek()} is left over"

    def run(*values):
        own, matched = values[: len(names)], values[len(names) :]
        for patterns, body in ways:
            bound = [one(value) for one, value in zip(patterns, matched, strict=True)]
            if None not in bound:
                return body(reduce(lambda a, b: {**a, **b}, bound, dict(zip(names, own, strict=True))))
        raise AssertionError("no pattern fits")

    return run


def run_lean(text, *, until_false=False):
    """Return whether each theorem of the source is true, by name; all of them, or up to the first that is not."""
    text = re.sub(r"/-.*?-/", lambda m: re.sub(r"\S", " ", m[0]), text, flags=re.S)
    known, truth = {}, {}
    for command in re.split(r"\n(?=def |theorem |abbrev )", text):
        reader = _Reader(command.strip(), known)
        kind = reader.take()
        if kind == "def":
            name = reader.take()
            known[name] = None
            known[name] = _definition(reader)
        elif kind == "theorem":
            name = reader.take()
            reader.take(":")
            value = reader.term()
            assert [token for token, _ in reader.tokens[reader.at :]] == [":=", "by", "native_decide"]
            truth[name.removesuffix("_exact")] = value({})
            if until_false and not truth[name.removesuffix("_exact")]:
                break
    return truth
