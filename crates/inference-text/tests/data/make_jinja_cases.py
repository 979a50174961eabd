"""usage: make_jinja_cases.py > jinja_cases.json     (jinja2 3.1)

Renders small templates in an environment set up as transformers sets up its own for chat templates
(transformers/utils/chat_template_utils.py), for tests/jinja_reference.rs. A case is a template, and the text it
renders or null where it raises.
"""
import datetime, json, sys
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 1, 5, 9, 30, 45).strftime(f)

VARIABLES = {
    "s": "Hello, World", "p": "  padded\n", "u": "Zürich 日本 é", "n": 7, "f": 2.5, "big": 1e20, "t": True, "x": None, "e": "",
    "l": [3, 1, 2], "w": ["b", "a", "c"], "d": {"b": 1, "a": [1, "two", None, True, 2.0], "c": {"k": "v<>&'\""}},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "x", "v": 3}, {"k": "z"}],
}
TEMPLATES = r'''
{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ x }}|{{ e }}|{{ undefined_name }}
{{ l }}|{{ w }}|{{ d }}
{{ [1, 2.0, 'a', none, true] }}|{{ {'a': 1, 'b': [x]} }}|{{ (1, 2) }}
{{ big }}|{{ 1.0 }}|{{ 1e-5 }}|{{ 10 / 4 }}|{{ 10 / 5 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 2 ** 10 }}
{{ 1 + 2.5 }}|{{ 3 * 'ab' }}|{{ 'ab' * 2 }}|{{ [1] + [2] }}|{{ [0] * 3 }}
{{ s ~ n ~ t ~ x ~ f }}|{{ 'a' ~ [1, 'b'] }}|{{ 'a' ~ d.c }}
{{ 'a' + 1 }}
{{ 'a' + x }}
{{ 'a' + undefined_name }}
{{ undefined_name.attribute }}
{{ d.missing }}|{{ d['missing'] }}|{{ d.c.k }}|{{ d['a'][1] }}|{{ d.a[0] }}
{{ x.attribute }}|{{ l.attribute }}
{{ l[0] }}|{{ l[-1] }}|{{ l[1:] }}|{{ l[:-1] }}|{{ l[::-1] }}|{{ s[0] }}|{{ s[-5:] }}|{{ s[::-1] }}|{{ s[7:100] }}|{{ u[7:9] }}
{{ l[10] }}|
{{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ u.capitalize() }}|{{ s.swapcase() }}|{{ s.casefold() }}
{{ p.strip() }}|{{ p.lstrip() }}|{{ p.rstrip() }}|{{ s.strip('Hd') }}|{{ s.lstrip('eH') }}|{{ s.rstrip('dl') }}
{{ s.split(', ') }}|{{ s.split('l', 1) }}|{{ p.split() }}|{{ 'a b  c'.split(' ') }}|{{ 'a\nb\r\nc'.splitlines() }}
{{ s.rsplit('l', 1) }}|{{ 'a b  c '.rsplit() }}|{{ 'a b  c'.rsplit(none, 1) }}|{{ 'a,b,c'.rsplit(',', maxsplit=1) }}
{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ s.startswith('He') }}|{{ s.endswith(('x', 'd')) }}|{{ s.find('o') }}|{{ s.rfind('o') }}|{{ s.find('zz') }}|{{ s.count('l') }}
{{ s.index('W') }}|{{ s.rindex('o') }}
{{ s.index('zz') }}
{{ s.removeprefix('He') }}|{{ s.removesuffix('ld') }}|{{ s.removeprefix('x') }}|{{ s.partition(', ') }}|{{ s.rpartition('o') }}|{{ s.partition('zz') }}
{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5, '*') }}|{{ 'abc'.center(6, '*') }}|{{ 'a'.center(4, '*') }}
{{ '12'.isdigit() }}|{{ 'a1'.isalnum() }}|{{ 'ab'.isalpha() }}|{{ 'A'.isupper() }}|{{ 'a'.islower() }}|{{ ' '.isspace() }}|{{ ''.isdigit() }}
{{ ', '.join(w) }}|{{ '{} and {}'.format(1, 'b') }}|{{ '%s is %d' | format('a', 3) }}|{{ '%.2f' | format(2.5) }}|{{ '%05d' | format(42) }}
{{ d.keys() | list }}|{{ d.values() | list }}|{{ d.items() | list }}|{{ d.get('b') }}|{{ d.get('zz') }}|{{ d.get('zz', 5) }}
{{ l.append(4) }}
{{ d.update({'z': 1}) }}
{{ l.index(1) }}|{{ l.count(1) }}
{{ d | tojson }}
{{ d | tojson(indent=2) }}
{{ d | tojson(indent=4, sort_keys=true) }}
{{ d | tojson(separators=(',', ':')) }}|{{ u | tojson }}|{{ u | tojson(ensure_ascii=true) }}|{{ "\x7f\n\t\"\\/" | tojson }}|{{ '😀' | tojson(true) }}
{{ [] | tojson(indent=2) }}|{{ {} | tojson(indent=2) }}|{{ [[], {}] | tojson(indent=1) }}|{{ x | tojson }}|{{ 1.0 | tojson }}|{{ big | tojson }}|{{ 1e-7 | tojson }}|{{ 123456789012 | tojson }}
{{ {1: 2, none: 3, false: 4, 1.5: 5} | tojson }}
{{ undefined_name | tojson }}
{{ p | trim }}|{{ s | upper }}|{{ s | lower }}|{{ s | title }}|{{ 'hello wORLD' | capitalize }}|{{ s | length }}|{{ l | length }}|{{ u | length }}
{{ x | trim }}|{{ n | string }}|{{ [1, none] | string }}|{{ x | string }}|{{ t | string }}|{{ '3' | int + 1 }}|{{ 'q' | int(9) }}|{{ '2.5' | float }}
{{ l | sort }}|{{ l | sort(reverse=true) }}|{{ w | sort }}|{{ l | max }}|{{ l | min }}|{{ l | sum }}|{{ l | first }}|{{ l | last }}|{{ l | reverse | list }}|{{ s | reverse }}
{{ rows | map(attribute='k') | list }}|{{ rows | selectattr('k', 'equalto', 'x') | map(attribute='v') | list }}|{{ rows | rejectattr('v', 'defined') | list }}
{{ rows | map(attribute='k') | unique | list }}|{{ w | map('upper') | join(', ') }}|{{ l | select('odd') | list }}|{{ l | reject('equalto', 3) | list }}|{{ l | select('in', [1, 2]) | list }}
{{ rows | selectattr('v') | list | length }}|{{ rows | map(attribute='v', default=0) | sum }}|{{ '12.7' | int }}|{{ none | int(4) }}|{{ 3.9 | int }}|{{ 'ff' | int(0, 16) }}|{{ 'x' | float }}|{{ true | int }}
{{ d | dictsort }}|{{ d | items | list | length }}|{{ w | join }}|{{ l | join('-') }}|{{ rows | join(',', attribute='k') }}
{{ undefined_name | default('q') }}|{{ x | default('q') }}|{{ x | default('q', true) }}|{{ e | default('q', boolean=true) }}|{{ undefined_name | d }}
{{ 'a\nb' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 2.567 | round(1) }}|{{ 2.5 | round }}|{{ -3 | abs }}|{{ '<a>&"' | e }}|{{ '<a>' | safe }}|{{ 'a b' | replace('a', 'c') }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }}|{{ [1, 2, 3] | slice(2) | list }}|{{ s | wordcount }}|{{ s | list | length }}
{% for k, g in rows | groupby('k') %}{{ k }}={{ g | length }};{% endfor %}
{{ s is string }}|{{ n is number }}|{{ f is float }}|{{ n is integer }}|{{ t is boolean }}|{{ x is none }}|{{ d is mapping }}|{{ l is iterable }}|{{ s is iterable }}|{{ l is sequence }}|{{ s is sequence }}|{{ d is sequence }}|{{ n is iterable }}|{{ x is iterable }}
{{ undefined_name is defined }}|{{ s is defined }}|{{ x is defined }}|{{ undefined_name is none }}|{{ n is odd }}|{{ n is even }}|{{ n is divisibleby 7 }}|{{ t is true }}|{{ t is false }}|{{ 1 is true }}|{{ n is eq 7 }}|{{ n is sameas 7 }}|{{ 'a' is in w }}|{{ s is upper }}|{{ 'a' is lower }}|{{ n is callable }}
{{ n is not none and x is none }}|{{ not x }}|{{ x or 'alt' }}|{{ s and n }}|{{ e or x }}|{{ 'a' if x }}|{{ 'a' if n > 5 else 'b' }}|{{ 1 < n <= 7 }}
{{ 'ell' in s }}|{{ 'b' in d }}|{{ 1 in l }}|{{ 4 not in l }}|{{ 'x' in e }}|{{ 'a' in undefined_name }}
{{ 'a' in x }}
{{ 1 == 1.0 }}|{{ 'a' < 'b' }}|{{ [1, 2] == [1, 2] }}|{{ {'a': 1} == {'a': 1} }}|{{ x == none }}|{{ t == 1 }}|{{ l != w }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }},{% endfor %}
{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}|{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in [] %}{{ i }}{% else %}none{% endfor %}|{% for i in undefined_name %}{{ i }}{% else %}none{% endfor %}
{% for i in x %}{{ i }}{% endfor %}
{% for i in n %}{{ i }}{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for k, v in d | items %}{{ k }}{% endfor %}|{% for c in 'añ' %}[{{ c }}]{% endfor %}
{% for i in range(3) %}{{ i }}{% endfor %}|{{ range(2, 8, 3) | list }}|{% for i in range(n - 1, -1, -2) %}{{ i }}{% endfor %}
{% for i in l if i > 1 %}{{ loop.index }}:{{ i }};{% endfor %}|{% for i in l recursive %}{{ i }}{% if i == 3 %}{{ loop([9]) }}{% endif %}{% endfor %}
{% for i in 'a' if n else 'b' %}{{ i }}{% endfor %}
{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}|{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}
{% set ns = namespace(i=0, found=false) %}{% for i in l %}{% set ns.i = ns.i + i %}{% if i == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.i }} {{ ns.found }}
{% set a = 1 %}{% for i in l %}{% set a = i %}{% endfor %}{{ a }}|{% set b, c = 1, 2 %}{{ b }}{{ c }}|{% if t %}{% set a = 9 %}{% endif %}{{ a }}
{% set block %}<{{ s }}>{% endset %}{{ block }}|{% set up | upper %}abc{% endset %}{{ up }}
{% macro m(a, b='B', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=2) }}{{ m(b=1, a=2) }}{{ m() }}|{{ m(1) | length }}
{% macro outer() %}<{{ caller() }}>{% endmacro %}{% call outer() %}x{{ n }}{% endcall %}
{% macro m() %}{{ s }}{{ bos }}{% endmacro %}{% set bos = '<s>' %}{{ m() }}
{% macro rec(k) %}{{ k }}{% if k > 0 %}{{ rec(k - 1) }}{% endif %}{% endmacro %}{{ rec(3) }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}|{% filter upper %}abc{% endfilter %}
{% generation %}{{ s }}{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}
  {% if t %}  
  indented {% endif %}  
 x
{%- if t -%}   a   {%- endif -%}   b
{% if t %}\n{% endif %}{{ '\n' }}end\n
a {#- comment {{ s }} -#} b|{# {% if #}c|{% raw %}{{ s }}{% endraw %}
  {%+ if t %}x{% endif +%}  
{{- ' a ' -}}  b  {{- 'c' }}
{{ raise_exception('no ' ~ s) }}
{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d %H:%M') }}
{{ dict(a=1, b=2) }}|{{ dict(a=1).a }}|{{ joiner is defined }}|{{ namespace(a=1).a }}
{{ {'a': 1}['a'] }}|{{ {'a': {'b': 2}}.a.b }}|{{ [[1, 2], [3]][0][1] }}|{{ 'abc'[1] }}|{{ ('a', 'b')[1] }}
{{ rows[0].k + '-' + rows[0]['v'] | string }}|{{ (n - 2) * 3 }}|{{ -n }}|{{ n - -1 }}
{{ "it's" }}|{{ 'say "hi"' }}|{{ 'tab\there' }}|{{ "back\\slash" }}|{{ ["it's", 'say "hi"', "both '\""] }}|{{ ['a\nb', 'é', '\\'] }}
{% if x is not none and x | length > 0 %}a{% elif s %}b{% else %}c{% endif %}
{{ rows | map('tojson') | join('\n') }}
{{ ('a', 'b') | join }}|{{ l | tojson }}|{{ (1, 'b') | tojson }}|{{ l[1:] | tojson }}
{{ d.c | string }}|{{ d.c.items() | list | tojson }}|{{ w | first | upper ~ '!' }}
{{ s | length > 5 and 'long' or 'short' }}|{{ 'yes' if 'a' in w and 'z' not in w else 'no' }}
{{ '' if not x else x }}|{{ none is none }}|{{ None }}|{{ True }}|{{ False }}|{{ true and false }}
{% include 'other' %}
{{ s.__class__ }}
{{ ''.__class__.__mro__ }}
{{ unknown_function() }}
{{ s | unknown_filter }}
{% if %}
{{ s
{{ 1 // 0 }}
{{ 'a' | int / 2 }}|{{ 7.0 // 2 }}|{{ 2 ** -1 }}|{{ 7 % 2.5 }}
'''


def main():
    cases = []
    for line in TEMPLATES.strip("\n").split("\n"):
        template = line.replace("\\n", "\n") if line.startswith(("  {%", "{% if t %}\\n")) else line
        try:
            text = env.from_string(template).render(**VARIABLES)
        except Exception as error:
            text, kind = None, f"{type(error).__name__}: {error}"
        case = {"template": template, "text": text}
        if text is None:
            case["error"] = kind
        cases.append(case)
    # Lines belong together here.
    for template in ["{% for i in l %}\n  {% if i > 1 %}\n    {{ i }}\n  {% endif %}\n{% endfor %}\n\n", "{{ s }}\n", "{{ s }}\n\n", "a\r\n{% if t %}\r\nb{% endif %}\r\n",
                     "{% for i in l -%}\n {{ i }}\n{%- endfor %}\n", "{#- c -#}\n  x\n  {# c #}\n  y", "\t {% set a = 1 %}\n{{ a }}"]:
        cases.append({"template": template, "text": env.from_string(template).render(**VARIABLES)})
    json.dump({"variables": VARIABLES, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
