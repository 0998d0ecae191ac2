//! The names of fields that do something else than `model` says, compared plainly.

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
