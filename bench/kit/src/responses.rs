//! The bytes that the mock engine sends, in vLLM's shapes. The load generator makes the same bytes
//! and compares.

/// Frames are padded to this many bytes when nothing else is said: what a token costs on vLLM's
/// wire.
pub const FRAME_BYTES: usize = 256;

const RESPONSE_BYTES: usize = 1024;

/// The end of every stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A whole chat completion of 1 KB.
pub fn completion(model: &str) -> Vec<u8> {
    let before = format!(
        r#"{{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,"model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let after = r#"","refusal":null,"tool_calls":[]},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":128,"total_tokens":256,"completion_tokens":128}}"#;
    padded(&before, after, RESPONSE_BYTES)
}

/// One frame of a stream, blank line included, `size` bytes long (longer where a model's name needs
/// it).
pub fn frame(model: &str, size: usize) -> Vec<u8> {
    let before = format!(
        r#"data: {{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"{model}","choices":[{{"index":0,"delta":{{"content":""#
    );
    let after = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    padded(&before, after, size)
}

/// The frame with the token counts, which only a client that asks for it gets.
pub fn usage_frame(model: &str) -> Vec<u8> {
    format!(
        "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
         \"model\":\"{model}\",\"choices\":[],\"usage\":{{\"prompt_tokens\":128,\"total_tokens\":256,\
         \"completion_tokens\":128}}}}\n\n"
    )
    .into_bytes()
}

fn padded(before: &str, after: &str, size: usize) -> Vec<u8> {
    let filler = "lorem ipsum dolor sit amet ".bytes().cycle();
    let missing = size.saturating_sub(before.len() + after.len());
    before.bytes().chain(filler.take(missing)).chain(after.bytes()).collect()
}

/// `data` as one HTTP chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut wire = format!("{:x}\r\n", data.len()).into_bytes();
    wire.extend_from_slice(data);
    wire.extend_from_slice(b"\r\n");
    wire
}

/// What a request orders from the mock engine. It travels inside the body, so that one engine
/// serves every scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Frames of the stream before `[DONE]`; `None` asks for a whole response.
    pub frames: Option<usize>,
    /// Milliseconds from one frame to the next.
    pub pause: u64,
    /// Whether the client asked for the frame with the token counts.
    pub usage: bool,
}

impl Order {
    /// Finds the order in a request's body, by plain search: the engine has to be faster than what
    /// it measures.
    pub fn find(body: &[u8]) -> Self {
        let streamed = contains(body, br#""stream":true"#) || contains(body, br#""stream": true"#);
        Self {
            frames: streamed.then(|| number(body, br#""mock_frames":"#).unwrap_or(16) as usize),
            pause: number(body, br#""mock_pause_ms":"#).unwrap_or(0),
            usage: contains(body, br#""include_usage":true"#)
                || contains(body, br#""include_usage": true"#),
        }
    }
}

fn contains(body: &[u8], mark: &[u8]) -> bool {
    memchr::memmem::find(body, mark).is_some()
}

fn number(body: &[u8], mark: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(body, mark)? + mark.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// A chat request of about `size` bytes. `model` comes first, as every SDK sends it.
pub fn request(model: &str, size: usize, order: Order) -> Vec<u8> {
    let before = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""#);
    let after = match order.frames {
        Some(frames) => {
            format!(
                r#""}}],"stream":true,"mock_frames":{frames},"mock_pause_ms":{}}}"#,
                order.pause
            )
        }
        None => r#""}],"max_tokens":128}"#.to_owned(),
    };
    padded(&before, &after, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_its_way_through_a_request() {
        for order in [
            Order { frames: None, pause: 0, usage: false },
            Order { frames: Some(500), pause: 0, usage: false },
            Order { frames: Some(7), pause: 20, usage: false },
        ] {
            assert_eq!(Order::find(&request("m", 1024, order)), order);
        }
    }

    #[test]
    fn a_request_for_usage_is_seen() {
        assert!(Order::find(br#"{"stream":true,"stream_options":{"include_usage":true}}"#).usage);
    }

    #[test]
    fn responses_are_json_of_the_promised_size() {
        let size_and_json = |bytes: &[u8]| {
            (bytes.len(), serde_json::from_slice::<serde_json::Value>(bytes).is_ok())
        };
        assert_eq!(size_and_json(&completion("mock")), (RESPONSE_BYTES, true));
        assert_eq!(size_and_json(&request("mock", 32_768, Order::find(b""))), (32_768, true));
        let frame = frame("mock", FRAME_BYTES);
        assert_eq!(frame.len(), FRAME_BYTES);
        assert!(size_and_json(&frame[6..]).1 && size_and_json(&usage_frame("mock")[6..]).1);
    }
}
