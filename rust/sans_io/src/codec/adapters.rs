//! Fields of requests by which an engine answers with something else than `model` says: an adapter,
//! or another model.

/// Whether a field of this name can do that, in the engines that are known:
///
/// * `lora_path` and `lora_id` of `SGLang`, `lora` of llama.cpp and of vLLM-Omni, `lora_request` of
///   TensorRT-LLM, `adapter_id` of `LoRAX`, `adapters` and `draft_model` of mlx-lm;
/// * `extra_body`, from which vLLM-Omni's chat takes `lora`;
/// * `models` of `OpenRouter`, and `fallbacks` of `LiteLLM` with its `..._fallbacks`.
///
/// vLLM picks by `model` alone, and so do text-embeddings-inference and Infinity. An engine that
/// does not know a field ignores it, so that nothing is lost where it is refused.
pub(crate) fn picks_adapter(name: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 2] = [b"lora", b"adapter"];
    BEGINNINGS.iter().any(|begin| name.starts_with(begin))
        || name.ends_with(b"fallbacks")
        || matches!(name, b"draft_model" | b"extra_body" | b"models")
}
