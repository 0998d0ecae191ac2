//! The names of fields that do something else than `model` says, compared plainly.

#![allow(dead_code, reason = "each check uses a part of it")]

/// What a name can do beside `model`: pick an adapter or another model, or name a host.
pub(super) fn plain_pick(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let hosts = "kv_transfer_params ec_transfer_params disaggregated_params migration_request \
        api_base base_url";
    let models = "model model_id model_name model_path model_uid models draft_model preset";
    let is_of = |list: &str| list.split_whitespace().any(|known| known == name);
    let begins = |starts: [&str; 3]| starts.iter().any(|start| name.starts_with(start));
    if name.len() > 31 {
        None
    } else if is_of(hosts) || name.starts_with("bootstrap_") {
        Some("host")
    } else if is_of(models)
        || begins(["lora", "adapter", "peft"])
        || ["adapter", "adapters", "fallbacks"].iter().any(|end| name.ends_with(end))
    {
        Some("model")
    } else {
        None
    }
}

/// Whether a field of this name holds further ones.
pub(super) fn plain_holds_fields(name: &str) -> bool {
    let holding = "extra_body extra_args vllm_xargs custom_params sampling_params parameters \
        options nvext";
    holding.split_whitespace().any(|known| known == name)
}

/// Whether such a field's value of this name is content, and holds none.
pub(super) fn plain_is_content(name: &str) -> bool {
    let content = "messages prompt input inputs documents metadata tools functions tool_choice \
        chat_template_kwargs response_format json_schema guided_json guided_decoding \
        structured_outputs grammar schema json";
    content.split_whitespace().any(|known| known == name)
}

/// The parts of a name with brackets or dots, without blanks around them.
pub(super) fn plain_parts(name: &str) -> Vec<&str> {
    let blank = |character: char| character <= ' ';
    let parts = name.split(['[', ']', '.']).map(|part| part.trim_matches(blank));
    parts.filter(|part| !part.is_empty()).collect()
}
