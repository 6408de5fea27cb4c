"""Chat templates: the same text as transformers writes, and no way out of the sandbox."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from ironcliw.chat_template import ChatTemplate
from ironcliw.errors import ModelLoadError, RequestError, RequestTooLargeError
from serve.engines.decoders.fake import fake_tokenizer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n'"
    " }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('Only user and assistant roles, not ' + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
OTHERS = """{% for message in messages %}
  {% if message.role == 'system' %}{% continue %}{% endif %}
  {% if loop.index > 3 %}{% break %}{% endif %}
  {{ {'a': message.content, 'b': '<&>'} | tojson }} {% generation %}{{ message.role }}
  {% endgeneration %}
{% endfor %}"""
SPECIAL = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
TURNS = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "What is 1 < 2 & 3?\n"},
    {"role": "assistant", "content": "True."},
    {"role": "user", "content": "Caf\u00e9 \U0001f600 {{ 7 * 7 }}"},
]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def transformers_text(template: str, messages: Any, *, prompt: bool) -> str:
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=fake_tokenizer(), **SPECIAL)
    return str(
        tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[1:2]], ids=["system", "three", "one"])
@pytest.mark.parametrize("template", [CHATML, SMOLLM2, LLAMA3, OTHERS])
def test_the_text_is_what_transformers_writes(template: str, turns: Any, prompt: bool) -> None:
    ours = ChatTemplate(template, SPECIAL, "m").render(turns, add_generation_prompt=prompt)
    assert ours == transformers_text(template, turns, prompt=prompt)
    assert "{{ 7 * 7 }}" in ours or turns is not TURNS or template is OTHERS


def test_the_date_is_today() -> None:
    text = ChatTemplate("{{ strftime_now('%Y') }}", {}, "m").render(user("x"))
    assert text in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_developer_is_system_where_the_template_does_not_know_it() -> None:
    messages = [{"role": "developer", "content": "a"}]
    assert "<|im_start|>system\na" in ChatTemplate(CHATML, {}, "m").render(messages)
    knows = "{% if messages[0].role == 'developer' %}D{% endif %}"
    assert ChatTemplate(knows, {}, "m").render(messages) == "D"


def test_a_template_that_refuses_says_so_in_its_own_words() -> None:
    template = ChatTemplate(LLAMA3, SPECIAL, "m")
    with pytest.raises(RequestError, match="m refuses the messages: Only user and assistant"):
        template.render([*TURNS, {"role": "tool", "content": "x"}])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% unknown %}", "a" * 500_001])
def test_a_damaged_template(source: str) -> None:
    with pytest.raises(ModelLoadError, match="the chat template of m"):
        ChatTemplate(source, {}, "m")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ raise_exception.__globals__.x }}", "SecurityError"),
        ("{{ 'x' * 10**9 }}", "SecurityError: a product"),
        ("{{ 9 ** 999999 }}", "SecurityError: the exponent"),
        ("{% for i in range(9999999) %}{% endfor %}", "OverflowError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages[0].nothing.at_all }}", "UndefinedError"),
    ],
)
def test_a_hostile_or_broken_template_becomes_an_error(source: str, reason: str) -> None:
    with pytest.raises(ModelLoadError, match=rf"the chat template of m failed \({reason}"):
        ChatTemplate(source, {}, "m").render(user("x"))


def test_a_template_that_never_ends_is_stopped() -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match="it ran for more than 2 s"):
        ChatTemplate(loops, {}, "m").render(user("x"))
    assert time.monotonic() - started < 20


def test_an_endless_output_is_stopped() -> None:
    template = ChatTemplate("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", {}, "m")
    with pytest.raises(RequestTooLargeError, match="more than 1000000 characters"):
        template.render(user("x"))


def test_a_time_that_is_given() -> None:
    made = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {}, "m", now=datetime(2024, 7, 26))
    assert made.render(user("x")) == "26 Jul 2024"


def test_tools_and_other_values() -> None:
    source = "{{ tools | length }}{{ mood }}{{ messages[0].content }}{{ bos_token }}"
    made = ChatTemplate(source, {"bos_token": "<s>"}, "m")
    # what the caller owns cannot be replaced by a value
    values = {"mood": "kind", "messages": [], "tools": None}
    assert made.render(user("x"), tools=[{"name": "f"}], values=values) == "1kindx<s>"
