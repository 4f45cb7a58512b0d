// Templates from strangers: nothing to reach for, nothing to run away with, and messages that name the line.

import ChatTemplates
import Diagnostics
import Formats
import TestClock
import Testing

/// Ways out of sandboxes that were used against other renderers: each must fail or print nothing.
@Test(arguments: [
    "''.__class__", "''.__class__.__mro__[1].__subclasses__()", "[].__class__.__base__", "{}.__class__.__bases__[0]",
    "''['__class__']", "''|attr('__class__')", "''|attr('__class__')|attr('__mro__')", "messages.__class__",
    "messages[0].__class__.__init__.__globals__", "range.__globals__", "raise_exception.__globals__",
    "strftime_now.__globals__['datetime']", "namespace.__init__.__globals__", "dict.__class__", "cycler.__init__",
    "cycler.__init__.__globals__.os.popen('id').read()", "joiner.__init__.__globals__", "lipsum.__globals__",
    "lipsum.__globals__.os.system('id')", "self.__init__.__globals__", "self._TemplateReference__context",
    "request.application.__globals__", "config.items()", "get_flashed_messages.__globals__", "url_for.__globals__",
    "open('/etc/passwd').read()", "__import__('os').system('id')", "eval('1')", "exec('1')", "globals()", "locals()",
    "vars()", "getattr('', 'upper')", "type('')", "''.format.__globals__", "'{0.__class__}'.format('')",
    "'{0.__class__.__init__.__globals__}'.format(range)", "'%(__class__)s'|format(x=1)",
    "(1).__class__.__base__.__subclasses__()", "namespace(__class__=1)", "messages.append({'role': 'x'})",
    "messages[0].update({'role': 'x'})", "messages[0].pop('role')", "messages.clear()",
    "''.encode('utf-8').decode('unicode_escape')", "[''.__class__]|map(attribute='__mro__')|list|first|first",
    "['x']|map('attr', '__class__')|join", "dict.__init__.__globals__", "(messages|map).gi_frame",
    "(messages|map('upper')).gi_frame.f_globals",
])
func escapesAreInert(expression: String) {
    let text = rendered("{{ " + expression + " }}", [["role": "user", "content": "Hi"]])
    #expect(text == nil || text == "", "\(expression) gave \(text ?? "")")
}

@Test(arguments: [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "{% for i in range(1000000000) %}{% endfor %}", "{{ range(9223372036854775807)|list }}",
    "{{ 'a' * 1000000000 }}", "{{ 'a' * 9223372036854775807 }}", "{{ [0] * 1000000000 }}", "{{ (1,) * 100000000000 }}",
    "{{ 9 ** 9 ** 9 }}", "{{ 2 ** 100000000 }}", "{{ 10.0 ** 400 }}", "{{ 'a'.ljust(10000000000) }}",
    "{{ 'a'.center(10000000000) }}", "{{ 'a'.zfill(99999999999) }}", "{{ '%99999999d' % 1 }}",
    "{{ '%999999999999d' % 1 }}", "{{ '{:99999999}'.format(1) }}", "{{ 'a'|indent(10000000000) }}",
    "{{ 'a'|center(10000000000) }}", "{{ [1]|batch(10000000000, 1)|list }}", "{{ [1]|slice(10000000000)|list }}",
    "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s={}) %}{% for i in range(100000) %}{% set ns.s = {'a': ns.s} %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "{% set s = 'a' * 5000000 %}{% for i in range(100000) %}{{ s.replace('a', 'bb') }}{% endfor %}",
    "{% set s = 'a' * 5000000 %}{% for i in range(100000) %}{% set x = s.find('ab') %}{% endfor %}",
    "{% set s = 'a' * 9000000 %}{% for i in range(100000) %}{% set x = s == s ~ '' %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{{ (range(100000)|map('string')|list * 20)|sort|length }}",
    "{% set l = range(100000)|list %}{% for i in range(100000) %}{% set x = -1 in l %}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|list|length }}{% endfor %}",
    "{{ ('a' * 9000000).replace('', 'bbbbbbbbbb') }}", "{{ ('a,' * 4000000).split(',')|length }}{{ 'x' * 10000001 }}",
    "{{ ('<' * 9000000)|e }}", "{{ ('<!--' * 1000000)|striptags|length }}{{ 'x' * 10000001 }}",
    "{% for i in range(100000) %}{% set x = ('<!--' * 1000000)|striptags %}{% endfor %}",
    "{% for i in range(100000) %}{% set x = ('<!-->' * 1000000)|striptags %}{% endfor %}",
    "{% set s = 'a' * 5000000 %}{{ s.find('a' * 2500000 ~ 'b') }}{{ s.rfind('b' ~ 'a' * 2500000) }}{{ s * 3 }}",
    "{% set s = 'a' * 5000000 %}{{ s.split('a' * 2000000 ~ 'b')|length }}{{ s.rsplit('b' ~ 'a' * 2000000)|length }}"
        + "{{ s * 3 }}",
    "{% set s = 'a' * 5000000 %}{% set t = (s ~ 'b',) * 100000 %}"
        + "{% for i in t %}{% set x = s.startswith(t) %}{% endfor %}",
    "{% set s = 'é' * 4000000 %}{% for i in range(100000) %}{% set x = (s ~ 'x') == (s ~ 'y') %}{% endfor %}",
    "{% set s = 'é' * 4000000 %}{% for i in range(100000) %}{% set x = s|truncate(5) %}{% endfor %}",
    "{% set s = 'é' * 4000000 %}{% for i in range(100000) %}{% set x = s|length %}{% endfor %}",
    "{% set s = 'a' * 9000000 %}{% set d = {1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9,s:1} %}{% for i in range(100000) %}"
        + "{% set x = d[s ~ ''] %}{% endfor %}",
    "{% set s = 'é' * 4000000 %}{% for i in range(100) %}{{ s|title|length }}{{ s|upper|length }}{% endfor %}",
    "{% set s = 'Σ.' * 2000000 %}{% for i in range(100) %}{{ s|lower|length }}{{ s.swapcase()|length }}{% endfor %}",
    "{% set s = ' a' * 2000000 %}{% for i in range(100) %}{% set x = s.split() %}{% endfor %}{{ s * 10 }}",
    "{{ namespace(**dict(range(99999)|map('string')|batch(2)|list))|length }}{{ 'x' * 10000001 }}",
    "{{ ('{0}' * 1000000).format('aaaaaaaaaaaaaaaaa') }}", "{{ ('%s' * 100000) % ((('a' * 100000),) * 100000) }}",
    "{% for i in range(100000) %}{% set x = range(100000)|map('string')|sort|unique|groupby(0)|list %}{% endfor %}",
    "{{ strftime_now('%c' * 4000000)|length }}", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "{{ range(100000)|map('center', 100000)|join }}",
])
func bombsStop(source: String) {
    let time = processorSeconds { #expect(rendered(source) == nil) }
    // A debug build takes longer over the last operation before the clock is read.
    #expect(time < (isDebugBuild ? 6 : 2), "\(time) s")
}

/// Escaping was quadratic once: the first of these took 88 s in a release build, in one operation that no clock interrupts.
@Test(arguments: [
    ("{% set s = '\\n' * 900000 %}{{ [s] }}", 1_800_004), ("{% set s = '<' * 900000 %}{{ s|e }}", 3_600_000),
    ("{% set s = '\\u0001' * 900000 %}{{ [s] }}", 3_600_004),
]) func longTextIsEscapedInLinearTime(source: String, count: Int) {
    // The product's own limit is near what this takes on a slow, busy processor.
    var limits = TemplateLimits()
    limits.seconds = 20
    let time = processorSeconds { #expect(rendered(source, limits: limits)?.utf8.count == count) }
    #expect(time < (isDebugBuild ? 6 : 3), "\(time) s")
}

private let isDebugBuild: Bool = {
    var isDebug = false
    assert(
        {
            isDebug = true
            return true
        }())
    return isDebug
}()

@Test(arguments: ["(", "[", "{", "{{", "not ", "-", "a.", "a[", "a(", "1+", "a|b", "'", "1 if 1 else ", "a is b "])
func hugeNestingIsRefused(piece: String) {
    let text = String(repeating: piece, count: 1_000_000 / piece.utf8.count)
    #expect(throws: UserError.self) { try ChatTemplate("{{ " + text) }
    #expect(throws: UserError.self) { try ChatTemplate("{{ " + text + "1 }}") }
}

@Test(arguments: [
    "{% if 1 %}", "{% for a in b %}", "{% filter upper %}", "{% set x %}", "{% macro m() %}", "{#", "{% raw %}",
])
func hugeBlockNestingIsRefused(piece: String) {
    #expect(throws: UserError.self) { try ChatTemplate(String(repeating: piece, count: 50_000) + "x") }
}

@Test(arguments: [
    ("a\n\n{{ 1 / 0 }}", "chat template, line 3: division by zero"),
    ("{{ raise_exception('Roles must\nalternate') }}", "chat template, line 1: Roles must alternate"),
    ("\n{% if %}", "chat template, line 2: expected an expression, found %}"),
    ("{{ lipsum() }}", "chat template, line 1: lipsum is not available: its text is random"),
    ("{{ self }}", "chat template, line 1: self is not available: a chat template has no blocks to call"),
    ("{{ {1: 2, 'a': 3}|pprint }}", "chat template, line 1: pprint of keys of several types is not supported"),
    ("{{ 'a&copy;b'|striptags }}", "chat template, line 1: striptags does not know the entity '&copy;'"),
    ("{{ x|nope }}", "chat template, line 1: no filter named 'nope'"),
    ("{{ messages[0].content.x.y }}", "chat template, line 1: 'str object' has no attribute 'x'"),
    (
        "{% include 'x' %}",
        "chat template, line 1: {% include %} is not allowed: a chat template cannot read other files"
    ),
])
func messagesNameTheLine(source: String, expected: String) {
    let error = #expect(throws: UserError.self) {
        try ChatTemplate(source).render(messages: [["role": "user", "content": "Hi"]])
    }
    #expect(error?.message == expected)
}

@Suite struct TemplateTimes {
    @Test(arguments: [
        TemplateTime(year: 2026, month: 3, day: 1), .now,
        TemplateTime(year: 1999, month: 12, day: 31, hour: 23, minute: 59, second: 58, microsecond: 7),
    ]) func textReadsBack(_ time: TemplateTime) { #expect(TemplateTime(text: time.text) == time) }

    @Test(arguments: ["", "2026-03-01", "2026-13-01T00:00:00.000000", "2026-3-01T00:00:00.000000", "now"])
    func otherTextIsNone(_ text: String) { #expect(TemplateTime(text: text) == nil) }
}
