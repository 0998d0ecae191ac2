//! The paths of an engine that the generic proxy may reach.
//!
//! An engine decodes a path before it routes, and some merge slashes. So paths are compared after
//! both, without regard to case and to a slash at the end. Two spellings that any engine takes for
//! one path are one path here.

use crate::codec::percent::percent_decode;

/// The paths of one kind of engine. A path in a list also covers what lies below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyPaths {
    denied: Vec<String>,
    /// None: all that are not denied.
    allowed: Option<Vec<String>>,
}

impl ProxyPaths {
    /// `denied`: the administrative paths; `allowed`: the only paths that pass, or None for all
    /// others.
    pub fn new(denied: &[String], allowed: Option<&[String]>) -> Self {
        let read = |paths: &[String]| paths.iter().map(|path| canonical(path)).collect();
        Self { denied: read(denied), allowed: allowed.map(read) }
    }

    /// Whether a request for this path (as the client wrote it, without its query) may pass.
    pub fn allow(&self, path: &str) -> bool {
        let path = canonical(path);
        let covers = |listed: &String| {
            path.strip_prefix(listed.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !self.denied.iter().any(covers)
            && self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(covers))
    }
}

/// The path as it is compared.
fn canonical(path: &str) -> String {
    let decoded = percent_decode(path).to_lowercase();
    // Engines that decode before they split end the path here.
    let decoded = decoded.split(['?', '#', ';']).next().unwrap_or_default();
    let mut merged = String::with_capacity(decoded.len() + 1);
    for segment in decoded.split('/').filter(|segment| !segment.is_empty()) {
        merged.push('/');
        merged.push_str(segment);
    }
    merged
}

/// Whether a path has a segment `.` or `..`, plain or escaped, which engines read in different
/// ways. An escaped slash separates here, too, since an engine that decodes first sees the
/// segments.
pub fn has_dot_segment(path: &str) -> bool {
    percent_decode(path).split(['/', '\\']).any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrative_path_is_denied_in_every_spelling() {
        let paths = ProxyPaths::new(
            &["/collective_rpc".to_owned(), "/v1/load_lora_adapter".to_owned()],
            None,
        );
        for path in [
            "/collective_rpc",
            "/collective_rpc/",
            "//collective_rpc",
            "/%63ollective_rpc",
            "/collective%5Frpc",
            "/%2fcollective_rpc",
            "/Collective_RPC",
            "/collective_rpc%3fx=1",
            "/collective_rpc;a=b",
            "/collective_rpc/below",
            "/v1//load_lora_adapter",
            "/v1%2Fload_lora_adapter",
        ] {
            assert!(!paths.allow(path), "{path}");
        }
        for path in ["/collective_rpcs", "/tokenize", "/v1", "/v1/load", "/x/collective_rpc", "/"] {
            assert!(paths.allow(path), "{path}");
        }
    }

    #[test]
    fn with_a_list_of_allowed_paths_nothing_else_passes() {
        let paths = ProxyPaths::new(
            &["/v1/secret".to_owned()],
            Some(&["/v1".to_owned(), "/tokenize".to_owned()]),
        );
        for (path, passes) in [
            ("/v1/chat/completions", true),
            ("/tokenize", true),
            ("/v1/secret", false),
            ("/v1/secret/more", false),
            ("/sleep", false),
            ("/v1x", false),
            ("/", false),
        ] {
            assert_eq!(paths.allow(path), passes, "{path}");
        }
    }

    #[test]
    fn dot_segments_are_seen_however_they_are_written() {
        for path in [
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/a/%2E",
            "/a/.%2e/b",
            "/a%2f..%2fb",
            "/a/..%5cb",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/a.b/c..d", "/...", "/a%2fb", "/%2e%2e%2e"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
