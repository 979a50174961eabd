//! What templates are given, what they may do, and how they fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use inference_core::{ChatPrompt, Error, ErrorKind, Message, Role};
use inference_text::{ChatTemplate, SpecialTokens, TemplateRequest, chat_prompt_from_json};
use serde_json::json;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "chat_template.jinja", SpecialTokens::default().with_eos("</s>"))
        .unwrap()
}

fn render(source: &str) -> Result<String, Error> {
    template(source).render(&ChatPrompt::from(vec![Message::user("Hi")]))
}

#[test]
fn a_template_that_raises_passes_its_message_on() {
    let error =
        render("{{ raise_exception('Roles must alternate: ' ~ messages[0].role) }}").unwrap_err();
    let Error::Template { file, message } = &error else { panic!("{error:?}") };
    assert_eq!(
        (file.as_str(), message.as_str()),
        ("chat_template.jinja", "Roles must alternate: user")
    );
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // Also from inside a macro and a loop.
    let nested = "{% macro m() %}{% for m in messages %}{{ raise_exception('no') }}{% endfor %}{% endmacro %}{{ m() }}";
    assert!(render(nested).unwrap_err().to_string().ends_with("failed: no"));
}

#[test]
fn errors_name_the_line() {
    let error = render("a\n\n{{ messages[0].content.nothing.more }}").unwrap_err();
    assert!(error.to_string().contains("(line 3)"), "{error}");
    let broken = ChatTemplate::new("a\n{% if %}", "x.jinja", SpecialTokens::default()).unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::InvalidModel);
    let text = broken.to_string();
    assert!(text.starts_with("x.jinja") && text.contains("(line 2)"), "{text}");
}

#[test]
fn a_template_sees_all_of_a_conversation() {
    let chat = ChatPrompt::from(vec![
        Message::user("Hi"),
        Message::without_content(Role::Assistant).with_field(
            "tool_calls",
            r#"[{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]"#,
        ),
        Message::new(Role::Tool, "3").with_field("name", "\"f\""),
        Message::user("").with_field("content", r#"[{"type": "text", "text": "part"}]"#),
    ])
    .with_tools(r#"[{"name": "f"}]"#)
    .with_documents(r#"[{"title": "t"}]"#)
    .with_variable("thinking", "false")
    .with_generation_prompt(false);
    let source = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ tools | tojson }}{{ documents | tojson }}\
                  {{ thinking }}{{ add_generation_prompt }}{{ eos_token }}{{ bos_token is defined }}";
    let expected = concat!(
        "{\"role\": \"user\", \"content\": \"Hi\"}\n",
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}}]}\n",
        "{\"role\": \"tool\", \"content\": \"3\", \"name\": \"f\"}\n",
        "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"part\"}]}\n",
        "[{\"name\": \"f\"}][{\"title\": \"t\"}]FalseFalse</s>False",
    );
    assert_eq!(template(source).render(&chat).unwrap(), expected);
    // Without them, both are none, as transformers passes them.
    assert_eq!(render("{{ tools is none }}{{ documents is none }}").unwrap(), "TrueTrue");
}

#[test]
fn malformed_parts_are_named() {
    let base = || ChatPrompt::from(vec![Message::user("a"), Message::user("b")]);
    let with = |field: &str, json: &str| {
        ChatPrompt::from(vec![Message::user("a"), Message::user("b").with_field(field, json)])
    };
    let cases = [
        (with("tool_calls", "[{"), "messages[1].tool_calls"),
        (with("role", "\"user\""), "messages[1].role"),
        (base().with_tools("{}"), "tools"),
        (base().with_tools("[1"), "tools"),
        (base().with_documents("3"), "documents"),
        (base().with_variable("v", "tru"), "variable `v`"),
        (base().with_variable("messages", "[]"), "variable `messages`"),
    ];
    for (chat, name) in cases {
        let error = template("x").render(&chat).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().starts_with(&format!("invalid {name}: ")), "{error}");
    }
    for messages in [json!({}), json!("x"), json!([1]), json!([[]])] {
        let error = template("x").render_json(&TemplateRequest::new(messages)).unwrap_err();
        assert!(error.to_string().contains("messages"), "{error}");
    }
}

#[test]
fn conversations_from_json() {
    let json = r#"[
        {"role": "system", "content": "s"},
        {"role": "developer", "content": null},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "tool_calls": [{"z": 1, "a": 2}], "content": ""},
        {"role": "tool", "tool_call_id": "7", "content": "r"}
    ]"#;
    let chat = chat_prompt_from_json(json).unwrap();
    let roles: Vec<_> = chat.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "developer", "user", "assistant", "tool"]);
    assert_eq!(chat.messages[1].content, None);
    assert_eq!(chat.messages[3].content.as_deref(), Some(""));
    let text = template("{% for m in messages %}{{ m.content | tojson }}{% endfor %}{{ messages[3].tool_calls | tojson }}")
        .render(&chat)
        .unwrap();
    assert_eq!(text, r#""s"null[{"type": "text", "text": "x"}]"""r"[{"z": 1, "a": 2}]"#);

    for (json, part) in [
        ("", "messages"),
        ("{}", "invalid messages: expected a JSON array, found an object"),
        ("[1]", "messages[0]"),
        (r#"[{"role": "user", "content": "a"}, {"content": "b"}]"#, "messages[1].role"),
        (r#"[{"role": 3}]"#, "messages[0].role"),
        (r#"[{"role": "robot", "content": "b"}]"#, "found `robot`"),
        (r#"[{"role": "user", "content": 3}]"#, "messages[0].content"),
        (r#"[{"role": "user", "content": {"text": "x"}}]"#, "messages[0].content"),
    ] {
        let error = chat_prompt_from_json(json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(part), "{json}: {error}");
    }
}

#[test]
fn tools_choose_the_template_for_tools() {
    let both = template("plain").with_named("tool_use", "tools", "t.jinja").unwrap();
    assert_eq!(both.names().collect::<Vec<_>>(), ["default", "tool_use"]);
    let chat = ChatPrompt::from(vec![Message::user("Hi")]);
    assert_eq!(both.render(&chat).unwrap(), "plain");
    assert_eq!(both.render(&chat.clone().with_tools("[]")).unwrap(), "tools");
    let request = TemplateRequest::new(json!([])).with_template("tool_use");
    assert_eq!(both.render_json(&request).unwrap(), "tools");
    let request = TemplateRequest::new(json!([])).with_template("rag");
    let error = both.render_json(&request).unwrap_err().to_string();
    assert!(error.contains("default, tool_use") && error.contains("`rag`"), "{error}");
    assert_eq!(template("plain").render(&chat.with_tools("[]")).unwrap(), "plain");
}

#[test]
fn hostile_templates_end() {
    let cases = [
        // Loops.
        "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = 1 %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% include 'default' %}",
        // Output and memory.
        "{% set x = 'x' * 100000 %}{% for a in range(100000) %}{{ x }}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for a in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='xx') %}{% for a in range(100) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for a in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 'x'.ljust(1000000000000) }}",
        "{{ range(1000000000000) | list }}",
        "{{ '%1000000000000d' | format(1) }}",
        "{{ '%*d' | format(1000000000000, 1) }}",
        "{{ '{:>1000000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000000) }}",
        "{{ 'a\nb' | indent(1000000000000) }}",
        "{{ 'a\nb' | indent(width=1000000000000) }}",
        "{{ [1] | batch(1000000000000, 0) | list }}",
        "{{ [1] | slice(1000000000000) | list }}",
        "{% set a = 'x' * 1000000 %}{{ a.replace('x', a) | length }}",
        "{% set a = 'x' * 1000000 %}{{ a | replace('x', a) | length }}",
        "{% set a = 'x' * 1000000 %}{{ range(100000) | list | join(a) | length }}",
        "{% set a = 'x' * 1000000 %}{{ a.join(range(100000) | map('string') | list) | length }}",
    ];
    for source in cases {
        let start = Instant::now();
        let error = render(source).expect_err(source);
        assert!(matches!(error, Error::Template { .. }), "{source}: {error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{source}: {:?}", start.elapsed());
    }
    for value in ["n.x", "n.x ~ ''", "n.x == n.x", "n.x | tojson", "n.x | string | length", "1"] {
        let nest = "{% set n = namespace(x=[1]) %}{% for a in range(100000) %}{% set n.x = [n.x] %}{% endfor %}";
        let error = render(&format!("{nest}{{{{ {value} }}}}")).unwrap_err();
        assert!(error.to_string().contains("nested by more than"), "{error}");
        // Within the bound it works, or is refused, as deep as it is.
        let nest = nest.replace("100000", "49000");
        let _ = render(&format!("{nest}{{{{ {value} }}}}"));
    }
    for chain in ["+1", "~n", " and n", "[0]", "|trim", "**1", " if n else 2", " < 2", "()", ".a"] {
        for count in [1_000, 5_000, 200_000] {
            let source = format!("{{{{ 1{} }}}}", chain.repeat(count));
            let built = ChatTemplate::new(&source, "chain", SpecialTokens::default());
            assert!(count < 200_000 || built.is_err(), "{chain}");
        }
    }
    for prefix in ["not ", "-"] {
        let source = format!("{{{{ {}1 }}}}", prefix.repeat(4_000));
        let _ = ChatTemplate::new(&source, "chain", SpecialTokens::default());
    }
    for count in [1_000, 2_000] {
        let source = format!("{{% if n %}}{}{{% endif %}}", "{% elif n %}x".repeat(count));
        let built = ChatTemplate::new(&source, "chain", SpecialTokens::default());
        assert_eq!(built.is_ok(), count <= 1_024);
    }
    let deep = "{{ ".to_owned() + &"(".repeat(100_000) + &")".repeat(100_000) + " }}";
    assert!(ChatTemplate::new(&deep, "deep", SpecialTokens::default()).is_err());
    let long = "x".repeat(5 << 20);
    assert!(ChatTemplate::new(&long, "long", SpecialTokens::default()).is_err());
}

/// A long, ordinary conversation is nowhere near the bounds.
#[test]
fn long_conversations_render() {
    let source = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content | trim }}{% else %}<a>{{ m.content.split('x')[-1] }}{% endif %}{% endfor %}";
    let turn = [Message::user("question ".repeat(50)), Message::assistant("answer ".repeat(50))];
    let chat = ChatPrompt::from(turn.iter().cycle().take(10_000).cloned().collect::<Vec<_>>());
    assert!(template(source).render(&chat).unwrap().len() > 3_000_000);
}

#[test]
fn many_threads_share_a_template() {
    let shared = template("{{ messages[0].content }}");
    std::thread::scope(|scope| {
        for index in 0..8 {
            let shared = shared.clone();
            scope.spawn(move || {
                let chat = ChatPrompt::from(vec![Message::user(index.to_string())]);
                assert_eq!(shared.render(&chat).unwrap(), index.to_string());
            });
        }
    });
}
