//! Chat messages between JSON and the contract's types.

use inference_core::{ChatPrompt, Error, Message, RawJson, Result, Role};
use serde_json::{Map, Value as Json};

use crate::template::TemplateRequest;

/// Variables that a request sets in fields of their own.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Reads a conversation from JSON: an array of objects with `role`, `content`
/// (text, null, or a list of parts) and whatever else the template reads.
///
/// ```
/// let chat = inference_text::chat_prompt_from_json(r#"[{"role": "user", "content": "Hi"}]"#)?;
/// assert_eq!(chat.messages[0].content.as_deref(), Some("Hi"));
///
/// let error = inference_text::chat_prompt_from_json(r#"[{"role": "robot"}]"#).unwrap_err();
/// assert!(error.to_string().contains("messages[0].role"));
/// # Ok::<(), inference_core::Error>(())
/// ```
///
/// # Errors
///
/// `InvalidInput`, with the index and the field, where it is not that.
pub fn chat_prompt_from_json(json: &str) -> Result<ChatPrompt> {
    let value = parse("messages", json, "a JSON array of messages")?;
    let Json::Array(items) = value else {
        return Err(Error::invalid_input("messages", "a JSON array", kind_of(&value)));
    };
    let messages = items.into_iter().enumerate().map(|(index, item)| message(index, item));
    Ok(ChatPrompt::new(messages.collect::<Result<_>>()?))
}

fn message(index: usize, item: Json) -> Result<Message> {
    let Json::Object(fields) = item else {
        let what = format!("messages[{index}]");
        return Err(Error::invalid_input(what, "an object with a `role`", kind_of(&item)));
    };
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = match fields.get("role") {
        Some(Json::String(name)) => name.parse::<Role>().map_err(|_| {
            let known: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
            Error::invalid_input(at("role"), known.join(", "), format!("`{name}`"))
        })?,
        Some(other) => return Err(Error::invalid_input(at("role"), "a string", kind_of(other))),
        None => return Err(Error::invalid_input(at("role"), "a string", "nothing")),
    };
    let mut message = Message::without_content(role);
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("role", _) | ("content", Json::Null) => {}
            ("content", Json::String(text)) => message.content = Some(text),
            ("content", value) if !value.is_array() => {
                let expected = "a string, null or a list of parts";
                return Err(Error::invalid_input(at("content"), expected, kind_of(&value)));
            }
            (_, value) => message = message.with_field(name, RawJson(value.to_string())),
        }
    }
    Ok(message)
}

/// A conversation as a template sees it.
pub(crate) fn to_request(chat: &ChatPrompt) -> Result<TemplateRequest> {
    let mut messages = Vec::with_capacity(chat.messages.len());
    for (index, message) in chat.messages.iter().enumerate() {
        let mut object = Map::new();
        object.insert("role".to_owned(), Json::from(message.role.as_str()));
        object.insert("content".to_owned(), Json::from(message.content.clone()));
        for (name, json) in &message.fields {
            let what = format!("messages[{index}].{name}");
            if name == "role" {
                return Err(Error::invalid_input(what, "no second role among the fields", &json.0));
            }
            object.insert(name.clone(), parse(&what, &json.0, "JSON")?);
        }
        messages.push(Json::Object(object));
    }
    let part = |what: &str, json: &Option<RawJson>| -> Result<Option<Json>> {
        json.as_ref().map(|json| parse(what, &json.0, "a JSON array")).transpose()
    };
    let mut request = TemplateRequest::new(Json::Array(messages));
    request.tools = part("tools", &chat.tools)?;
    request.documents = part("documents", &chat.documents)?;
    request.add_generation_prompt = chat.add_generation_prompt;
    for (name, json) in &chat.variables {
        let value = parse(&format!("variable `{name}`"), &json.0, "JSON")?;
        request.variables.insert(name.clone(), value);
    }
    Ok(request)
}

/// Checks the shape of a request; what is in the messages is the template's
/// to judge.
pub(crate) fn check_request(request: &TemplateRequest) -> Result<()> {
    let array = |what: &str, value: &Json| match value {
        Json::Array(_) => Ok(()),
        other => Err(Error::invalid_input(what, "a JSON array", kind_of(other))),
    };
    array("messages", &request.messages)?;
    for (what, value) in [("tools", &request.tools), ("documents", &request.documents)] {
        if let Some(value) = value {
            array(what, value)?;
        }
    }
    for (index, message) in request.messages.as_array().into_iter().flatten().enumerate() {
        if !message.is_object() {
            let what = format!("messages[{index}]");
            return Err(Error::invalid_input(what, "an object", kind_of(message)));
        }
    }
    match request.variables.keys().find(|name| RESERVED.contains(&name.as_str())) {
        Some(name) => Err(Error::invalid_input(
            format!("variable `{name}`"),
            format!("a name other than {}", RESERVED.join(", ")),
            format!("`{name}`"),
        )),
        None => Ok(()),
    }
}

fn parse(what: &str, json: &str, expected: &str) -> Result<Json> {
    serde_json::from_str(json)
        .map_err(|error| Error::invalid_input(what, expected, format!("malformed JSON: {error}")))
}

/// What a value is, for messages.
pub(crate) fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}
