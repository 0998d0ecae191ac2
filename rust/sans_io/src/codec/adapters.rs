//! Fields of requests by which an engine does something else than `model` says: it responds with an
//! adapter or another model, or turns to a host that the request names.
//!
//! An engine that does not know a field ignores it, so that nothing is lost where it is refused.
//! Case does not matter: readers of JSON that are made of Go's take `Model` for `model`.

/// What a field can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// It picks an adapter, or another model.
    Model,
    /// It names a host to which the engine connects, or what such a host left for it.
    Host,
}

/// What the fields of a body that were read so far do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picks {
    /// One picks an adapter, or another model.
    pub(crate) model: bool,
    /// One names a host.
    pub(crate) host: bool,
}

impl Picks {
    /// Notes a field that does this.
    pub(crate) fn note(&mut self, pick: Pick) {
        match pick {
            Pick::Model => self.model = true,
            Pick::Host => self.host = true,
        }
    }

    /// Notes a field that does all of this.
    pub(crate) fn add(&mut self, more: Self) {
        self.model |= more.model;
        self.host |= more.host;
    }
}

/// The longest name that matters, in bytes.
pub(crate) const NAME_MAX: usize = 31;

/// What a field of this name can do, beside `model` itself; None: nothing. Known are
///
/// * to pick: `lora_path` and `lora_id` of `SGLang`, `lora` of llama.cpp and of vLLM-Omni,
///   `lora_request` of TensorRT-LLM, `adapter_id` (with `adapter_source`) and `merged_adapters` of
///   `LoRAX`, `adapters` and `draft_model` of mlx-lm, `models` and `preset` of `OpenRouter`,
///   `fallbacks` of `LiteLLM` with its `..._fallbacks`, `model_id` and its like of servers around
///   an engine. vLLM picks by `model` alone, and so do text-embeddings-inference and Infinity;
/// * to name a host: `kv_transfer_params` and `ec_transfer_params` of vLLM (`remote_host`, and more
///   by connector), `bootstrap_host` of `SGLang` with `..._port` and `..._room`,
///   `disaggregated_params` of TensorRT-LLM, `migration_request` of `LMDeploy`, `api_base` and
///   `base_url` of `LiteLLM`.
pub(crate) fn pick(name: &[u8]) -> Option<Pick> {
    let (first, last) = (name.first()? | 0x20, name.last()? | 0x20);
    // Most names of requests are told here.
    if !b"abdekmlp".contains(&first) && !b"rs".contains(&last) {
        return None;
    }
    let mut lower = [0; NAME_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let is_host = matches!(
        &*lower,
        b"kv_transfer_params"
            | b"ec_transfer_params"
            | b"disaggregated_params"
            | b"migration_request"
            | b"api_base"
            | b"base_url"
    ) || lower.starts_with(b"bootstrap_");
    let is_model =
        matches!(
            &*lower,
            b"model"
                | b"model_id"
                | b"model_name"
                | b"model_path"
                | b"model_uid"
                | b"models"
                | b"draft_model"
                | b"preset"
        ) || [&b"lora"[..], b"adapter", b"peft"].iter().any(|begin| lower.starts_with(begin))
            || [&b"adapter"[..], b"adapters", b"fallbacks"].iter().any(|end| lower.ends_with(end));
    if is_host { Some(Pick::Host) } else { is_model.then_some(Pick::Model) }
}

/// Whether the value of such a field holds further fields that engines read like those around it:
/// `extra_body` of vLLM-Omni, `vllm_xargs`, `custom_params` of `SGLang`, `nvext` of Dynamo, and
/// where engines' own APIs have the parameters of their sampling.
pub(crate) fn holds_fields(name: &[u8]) -> bool {
    matches!(
        name,
        b"extra_body"
            | b"extra_args"
            | b"vllm_xargs"
            | b"custom_params"
            | b"sampling_params"
            | b"parameters"
            | b"options"
            | b"nvext"
    )
}

/// Whether a value that stands somewhere inside of such a field's is content, or describes some:
/// whatever names it has, no engine reads them as fields.
pub(crate) fn is_content(name: &[u8]) -> bool {
    matches!(
        name,
        b"messages"
            | b"prompt"
            | b"input"
            | b"inputs"
            | b"documents"
            | b"metadata"
            | b"tools"
            | b"functions"
            | b"tool_choice"
            | b"chat_template_kwargs"
            | b"response_format"
            | b"json_schema"
            | b"guided_json"
            | b"guided_decoding"
            | b"structured_outputs"
            | b"grammar"
            | b"schema"
            | b"json"
    )
}

/// What a field can do whose value is a text that is not read, in a form or a query: vLLM reads the
/// JSON in a form's `vllm_xargs`. Clients and servers write a field inside of another as `a[b]` or
/// `a.b`, and a list as `a[]`, so each part of such a name counts as a member at its depth.
pub(crate) fn picks_in_text(name: &[u8]) -> Picks {
    let (mut picks, mut parts) = (Picks::default(), parts(name));
    let Some(first) = parts.next() else { return picks };
    if matches!(first, b"extra_body" | b"extra_args" | b"vllm_xargs" | b"custom_params" | b"nvext")
    {
        return Picks { model: true, host: true };
    }
    if let Some(pick) = pick(first) {
        picks.note(pick);
    } else if holds_fields(first) {
        parts.take_while(|part| !is_content(part)).filter_map(pick).for_each(|it| picks.note(it));
    }
    picks
}

/// Whether a name in a form or a query is `model`, but is written in a way that only some readers
/// take for it: `model[]`, `[model]`, ` model`.
pub(crate) fn is_model_otherwise(name: &[u8]) -> bool {
    name != b"model" && parts(name).next() == Some(b"model")
}

/// The parts of a name that is written with brackets or dots, without white space and control
/// characters around them; no empty ones.
fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_blank = |byte: &u8| *byte <= b' ';
    name.split(|byte| b"[].".contains(byte)).filter_map(move |part| {
        let start = part.iter().position(|byte| !is_blank(byte))?;
        let end = part.iter().rposition(|byte| !is_blank(byte))?;
        part.get(start..=end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pick_and_names_of_hosts_are_told_apart() {
        for name in [
            "lora",
            "lora_path",
            "LoRA",
            "adapter_id",
            "peft_id",
            "merged_adapters",
            "models",
            "context_window_fallbacks",
            "Model",
            "model_id",
            "draft_model",
            "prompt_adapter",
        ] {
            assert_eq!(pick(name.as_bytes()), Some(Pick::Model), "{name}");
        }
        for name in [
            "kv_transfer_params",
            "EC_transfer_params",
            "bootstrap_host",
            "bootstrap_port",
            "disaggregated_params",
            "migration_request",
            "api_base",
            "base_url",
        ] {
            assert_eq!(pick(name.as_bytes()), Some(Pick::Host), "{name}");
        }
        for name in [
            "",
            "messages",
            "max_tokens",
            "metadata",
            "tools",
            "stop",
            "user",
            "prompt",
            "modelx",
            "mode",
            "x",
            "n",
            "logprobs",
            "best_of",
            "encoding_format",
            "api_key",
            "documents",
            "a_name_that_is_longer_than_any_adapter",
        ] {
            assert_eq!(pick(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn each_part_of_a_name_in_a_text_counts_at_its_depth() {
        for (name, model, host) in [
            ("lora", true, false),
            ("lora[]", true, false),
            ("lora[0][lora_path]", true, false),
            ("[lora]", true, false),
            ("lora.path", true, false),
            (" lora", true, false),
            ("lora\t", true, false),
            ("[ LoRA ]", true, false),
            (".lora", true, false),
            ("model[]", true, false),
            ("options[lora]", true, false),
            ("options.lora", true, false),
            ("parameters[a][0][adapter_id]", true, false),
            ("parameters[api_base]", false, true),
            ("kv_transfer_params[do_remote]", false, true),
            ("bootstrap_host[]", false, true),
            ("extra_body", true, true),
            ("vllm_xargs[n]", true, true),
            ("custom_params.lora_path", true, true),
            ("", false, false),
            ("[]", false, false),
            ("options", false, false),
            ("options[n]", false, false),
            ("parameters[grammar][model]", false, false),
            ("metadata[model]", false, false),
            ("timestamp_granularities[]", false, false),
            ("messages[0][lora]", false, false),
            ("file.lora", false, false),
        ] {
            assert_eq!(picks_in_text(name.as_bytes()), Picks { model, host }, "{name}");
        }
        for (name, otherwise) in [
            ("model", false),
            ("model[]", true),
            ("[model]", true),
            (" model", true),
            ("model.x", true),
            ("models", false),
            ("Model", false),
            ("options[model]", false),
            ("", false),
        ] {
            assert_eq!(is_model_otherwise(name.as_bytes()), otherwise, "{name}");
        }
    }
}
