//! Paths that a wrong base URL makes: what they were meant to be, and what to change.
//!
//! Clients put an endpoint's path behind a base URL that a person has written: with `/v1` or without
//! it, with a slash at its end, or copied from another server. What can mean one thing only is that
//! (`corrected`); of the rest the caller is told what was most likely meant (`advice`).

/// The prefixes that tell an API's version.
const VERSIONS: [&str; 3] = ["v1", "v2", "v1-openai"];
/// The prefix of the management API, below which nothing is guessed.
const MANAGEMENT: &str = "v2";
/// What Ollama's own API has below `/api`.
const OLLAMA: [&str; 12] = [
    "blobs",
    "chat",
    "copy",
    "create",
    "delete",
    "embed",
    "embeddings",
    "generate",
    "ps",
    "pull",
    "show",
    "tags",
];
/// The most letters by which a path may differ from the one that is proposed for it,
const TYPOS: usize = 2;
/// and the longest path for which any is, in bytes.
const GUESSED_MAX: usize = 64;
/// The longest path that is looked into at all. Each of its slashes may be the end of a prefix, so
/// that one of thousands of them would be a lot of work for a request without a key.
const ADVISED_MAX: usize = 256;

/// A path without doubled slashes and versions, without a slash at its end, and with `/v1` if it has
/// no version. It need not be there.
pub(super) fn corrected(path: &str) -> String {
    let mut segments = segments(path).peekable();
    let mut corrected = String::with_capacity(path.len() + 3);
    // Of several versions the last one is the client's own; those before come from its base URL.
    let mut version = "v1";
    while let Some(found) = segments.next_if(|segment| VERSIONS.contains(segment)) {
        version = found;
    }
    for segment in std::iter::once(version).chain(segments) {
        corrected.push('/');
        corrected.push_str(segment);
    }
    corrected
}

/// What to change of a path that no endpoint has, in a sentence. `paths`: those of the endpoints
/// that clients have SDKs for. None: nothing is known, and it may be one of the management API's.
pub(super) fn advice(path: &str, paths: &[&'static str]) -> Option<String> {
    if path.len() > ADVISED_MAX || segments(path).next()? == MANAGEMENT {
        return None;
    }
    if let Some(rest) = path.strip_prefix("/api/")
        && OLLAMA.contains(&rest.trim_end_matches('/'))
    {
        return Some(
            "This is a path of Ollama's own API, which is not served here. Choose the client's \
             OpenAI-compatible provider, with a base URL that ends in /v1."
                .to_owned(),
        );
    }
    if let Some((prefix, meant)) = behind_prefix(path, paths) {
        return Some(format!("Take {prefix} out of the base URL: the endpoint is {meant}."));
    }
    let meant = closest(&corrected(path), paths)?;
    Some(format!("Did you mean {meant}?"))
}

/// A prefix that an endpoint's path does not begin with, and the endpoint that stands behind it.
fn behind_prefix<'a>(path: &'a str, paths: &[&'static str]) -> Option<(&'a str, &'static str)> {
    let path = path.trim_end_matches('/');
    path.match_indices('/').skip(1).find_map(|(at, _)| {
        let (prefix, rest) = path.split_at(at);
        // Of names that are anybody's, such as `models`, only those with their version.
        let is_sure =
            rest.starts_with("/v") || rest.matches('/').count() > 1 || rest == "/messages";
        let meant = corrected(rest);
        let meant = paths.iter().find(|path| is_sure && ***path == *meant)?;
        Some((prefix, *meant))
    })
}

/// The endpoint that differs from a path by a few letters, or that the path is the beginning of.
fn closest(path: &str, paths: &[&'static str]) -> Option<&'static str> {
    if path.len() > GUESSED_MAX || segments(path).count() < 2 {
        return None;
    }
    let distance = |other: &&str| distance(path.as_bytes(), other.as_bytes());
    let nearest = paths.iter().copied().min_by_key(distance)?;
    let begins =
        |other: &&&'static str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    if distance(&nearest) <= TYPOS { Some(nearest) } else { paths.iter().find(begins).copied() }
}

/// The number of letters to insert, to remove or to replace (Levenshtein's distance).
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: &[&str] = &[
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/models",
        "/v2/rerank",
        "/v1/audio/speech",
    ];

    #[test]
    fn slashes_and_versions_are_set_right() {
        for (path, right) in [
            ("/v1/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/v1/v1/models", "/v1/models"),
            ("/chat/completions", "/v1/chat/completions"),
            ("/models/a/b", "/v1/models/a/b"),
            ("//v1//models/", "/v1/models"),
            ("/v1/v2/rerank", "/v2/rerank"),
            ("/v1-openai/v1/models", "/v1/models"),
            ("/v1-openai/models/", "/v1-openai/models"),
            ("/v1x/models", "/v1/v1x/models"),
            ("/", "/v1"),
        ] {
            assert_eq!(corrected(path), right, "{path}");
            assert_eq!(corrected(right), right, "what is right stays");
        }
    }

    #[test]
    fn a_foreign_prefix_is_named_with_the_endpoint_behind_it() {
        for (path, prefix, meant) in [
            ("/openai/v1/chat/completions", "/openai", "/v1/chat/completions"),
            ("/anthropic/v1/messages", "/anthropic", "/v1/messages"),
            ("/anthropic/messages", "/anthropic", "/v1/messages"),
            (
                "/openai/deployments/x/chat/completions",
                "/openai/deployments/x",
                "/v1/chat/completions",
            ),
            (
                "/v1/chat/completions/chat/completions",
                "/v1/chat/completions",
                "/v1/chat/completions",
            ),
            ("/v1/chat/completions/v1/models", "/v1/chat/completions", "/v1/models"),
            ("/llm/v1/models/", "/llm", "/v1/models"),
        ] {
            let told = advice(path, PATHS).unwrap();
            assert_eq!(
                told,
                format!("Take {prefix} out of the base URL: the endpoint is {meant}.")
            );
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told_from_what_is_something_else() {
        for (path, meant) in [
            ("/v1/chat/completion", "/v1/chat/completions"),
            ("/chat/completion", "/v1/chat/completions"),
            ("/v1/completion", "/v1/completions"),
            ("/v1/Models", "/v1/models"),
            ("/v1/chat", "/v1/chat/completions"),
            ("/v1/audio", "/v1/audio/speech"),
            ("/v1/message", "/v1/messages"),
        ] {
            assert_eq!(advice(path, PATHS), Some(format!("Did you mean {meant}?")), "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/version",
            "/ui/models",
            "/v2/models",
            "/v2/v1/models",
            "/v2/rerankk",
            "/docs",
            "/v1/files",
            "/v1/fine_tuning/jobs",
        ] {
            assert_eq!(advice(path, PATHS), None, "{path}");
        }
        let long = format!("/v1/{}", "x".repeat(10_000));
        assert_eq!(advice(&long, PATHS), None);
        assert!(advice("/api/tags", PATHS).unwrap().contains("Ollama"));
    }

    #[test]
    fn a_path_of_thousands_of_slashes_is_not_looked_into() {
        let path = format!("/a{}/v1/models", "/a".repeat(30_000));
        assert_eq!(advice(&path, PATHS), None);
        let path = format!("/a{}/v1/models", "/a".repeat(100));
        assert!(advice(&path, PATHS).is_some_and(|advice| advice.ends_with("/v1/models.")));
    }

    #[test]
    fn the_distance_counts_letters() {
        for (one, other, letters) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
            ("abc", "abc", 0),
        ] {
            assert_eq!(distance(one.as_bytes(), other.as_bytes()), letters, "{one} {other}");
            assert_eq!(distance(other.as_bytes(), one.as_bytes()), letters, "{other} {one}");
        }
    }
}
