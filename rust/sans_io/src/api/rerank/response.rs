//! The client's response, which is made of an engine's of any shape.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::prepared::{Prepared, RerankError};

/// Makes the client's response from an engine's of any dialect. Without an engine's usage
/// (text-embeddings-inference counts no tokens) the usage is 0: Jina's response has one, and a
/// guess would be worse. The error is always [`RerankError::Response`].
pub fn response(
    body: &[u8],
    prepared: &Prepared,
    public_model: &str,
) -> Result<Vec<u8>, RerankError> {
    const WRONG: RerankError = RerankError::Response(
        "The engine's response is not a list of ranked documents; check that the model is a \
         reranker.",
    );
    let (mut results, usage) = if body.trim_ascii_start().starts_with(b"[") {
        (serde_json::from_slice::<Vec<Ranked<'_>>>(body).map_err(|_| WRONG)?, None)
    } else {
        let response: Response<'_> = serde_json::from_slice(body).map_err(|_| WRONG)?;
        let usage = response.usage();
        (response.ranking().ok_or(WRONG)?, usage)
    };
    number(&mut results, prepared.count).ok_or(WRONG)?;
    check(&results, prepared)?;
    let mut order: Vec<(f64, u32)> =
        results.iter().zip(0..).map(|(ranked, at)| (ranked.score(), at)).collect();
    // Stable, so that equal scores stay in the engine's order.
    order.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    order.truncate(prepared.top_n.unwrap_or(usize::MAX));
    let ranked = || order.iter().filter_map(|&(_, at)| results.get(at as usize));
    let length: usize = ranked().map(|ranked| ranked.length(prepared)).sum();
    let (prompt, total) = usage.map_or((0, 0), tokens);
    let name = Value::from(public_model).to_string();
    let mut document = String::with_capacity(length + name.len() + RESPONSE_MEMBERS);
    let _ = write!(document, "{{\"model\":{name},\"object\":\"list\",\"results\":[");
    for (at, ranked) in ranked().enumerate() {
        if at > 0 {
            document.push(',');
        }
        ranked.write_as_jina(prepared, &mut document);
    }
    let _ =
        write!(document, "],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{total}}}}}");
    Ok(document.into_bytes())
}

/// Checks that the engine has ranked the documents: each at most once, with a score, and as many as
/// are wanted.
fn check(results: &[Ranked<'_>], prepared: &Prepared) -> Result<(), RerankError> {
    if !results.iter().all(Ranked::has_score) {
        return Err(RerankError::Response(
            "The engine gives a document a score that is no number; check that the model is a \
             reranker.",
        ));
    }
    let mut indexes: Vec<usize> = results.iter().map(Ranked::index).collect();
    indexes.sort_unstable();
    let is_sent = indexes.last().is_none_or(|last| *last < prepared.count);
    if !is_sent || indexes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(RerankError::Response(
            "The engine ranks a document twice, or one that it was not sent; look into its log.",
        ));
    }
    if results.len() < prepared.top_n.unwrap_or(prepared.count).min(prepared.count) {
        return Err(RerankError::Response(
            "The engine ranks fewer documents than it was asked to; look into its log.",
        ));
    }
    Ok(())
}

/// More than the bytes of a response's members without its name and its results.
const RESPONSE_MEMBERS: usize = 160;
/// More than the bytes of a result's members without its document and its score.
const RESULT_MEMBERS: usize = 80;

/// The members of a response, or of its `output`, that may have what is asked for.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    results: Option<Vec<Ranked<'a>>>,
    #[serde(borrow)]
    data: Option<Vec<Ranked<'a>>>,
    #[serde(borrow)]
    rankings: Option<Vec<Ranked<'a>>>,
    #[serde(borrow)]
    scores: Option<Vec<Ranked<'a>>>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    tokens: Option<&'a RawValue>,
}

impl<'a> Response<'a> {
    /// Where its tokens are counted.
    fn usage(&self) -> Option<&'a RawValue> {
        let meta = |meta: &'a RawValue| serde_json::from_str::<Meta<'a>>(meta.get()).ok()?.tokens;
        self.usage.or_else(|| self.meta.and_then(meta))
    }

    /// Its list of ranked documents.
    fn ranking(mut self) -> Option<Vec<Ranked<'a>>> {
        let output = self.output.take();
        self.own_ranking().or_else(|| {
            let output = output?.get();
            if output.starts_with('[') {
                return serde_json::from_str(output).ok();
            }
            serde_json::from_str::<Self>(output).ok()?.own_ranking()
        })
    }

    /// The list without what `output` may have.
    fn own_ranking(self) -> Option<Vec<Ranked<'a>>> {
        self.results.or(self.data).or(self.rankings).or(self.scores)
    }
}

/// Gives a ranking of all documents without any index their order; None: some have one, or they are
/// another number of them.
fn number(ranking: &mut [Ranked<'_>], documents: usize) -> Option<()> {
    if ranking.len() == documents && ranking.iter().all(|ranked| ranked.index.is_none()) {
        ranking.iter_mut().enumerate().for_each(|(at, ranked)| ranked.index = Some(at));
    }
    ranking.iter().all(|ranked| ranked.index.is_some()).then_some(())
}

#[derive(Deserialize)]
#[serde(try_from = "&'a RawValue", bound(deserialize = "'de: 'a"))]
struct Ranked<'a> {
    index: Option<usize>,
    /// As it was written, without quotes around it.
    score: &'a str,
    /// vLLM and providers send it.
    document: Option<&'a RawValue>,
}

/// A ranked document in anybody's words.
#[derive(Deserialize)]
struct RankedObject<'a> {
    index: Option<usize>,
    #[serde(borrow, default)]
    relevance_score: Present<'a>,
    #[serde(borrow, default)]
    score: Present<'a>,
    #[serde(borrow, default, rename = "relevanceScore")]
    bedrock_score: Present<'a>,
    #[serde(borrow, default)]
    logit: Present<'a>,
    #[serde(borrow)]
    document: Option<&'a RawValue>,
}

/// A member that is there, null too.
#[derive(Default, Deserialize)]
#[serde(from = "&'a RawValue", bound(deserialize = "'de: 'a"))]
struct Present<'a>(Option<&'a RawValue>);

impl<'a> From<&'a RawValue> for Present<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Self(Some(raw))
    }
}

impl<'a> TryFrom<&'a RawValue> for Ranked<'a> {
    type Error = RerankError;

    /// Reads an object, or a score alone.
    fn try_from(raw: &'a RawValue) -> Result<Self, RerankError> {
        if !raw.get().starts_with('{') {
            return Ok(Self { index: None, score: unquoted(raw), document: None });
        }
        let ranked: RankedObject<'_> = serde_json::from_str(raw.get()).map_err(|_| NO_SCORE)?;
        let scores = [ranked.relevance_score, ranked.score, ranked.bedrock_score, ranked.logit];
        let score = scores.into_iter().find_map(|Present(score)| score).ok_or(NO_SCORE)?;
        Ok(Self { index: ranked.index, score: unquoted(score), document: ranked.document })
    }
}

/// A number, which some servers write as a string.
fn unquoted(score: &RawValue) -> &str {
    let written = score.get();
    let inside = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    // Only what is a number in JSON, too, may stand in the place of one.
    inside.filter(|inside| serde_json::from_str::<f64>(inside).is_ok()).unwrap_or(written)
}

const NO_SCORE: RerankError = RerankError::Response("A ranked document has no score.");

impl<'a> Ranked<'a> {
    /// The number of its document. [`number`] has seen to it that there is one.
    fn index(&self) -> usize {
        self.index.unwrap_or(usize::MAX)
    }

    /// Whether its score is a number, or null, which engines write for NaN.
    fn has_score(&self) -> bool {
        self.score == "null" || self.score.parse().is_ok_and(f64::is_finite)
    }

    /// The score to sort by. One that is no number (null stands for NaN) ranks last.
    fn score(&self) -> f64 {
        self.score.parse().unwrap_or(f64::NEG_INFINITY)
    }

    /// The document's text, or else the document as the engine has it; None: it is not wanted, or
    /// is not known.
    fn document<'b>(&self, prepared: &'b Prepared) -> (Option<&'b str>, Option<&'a str>) {
        match prepared.texts.get(self.index()) {
            Some(text) => (Some(text), None),
            None if prepared.return_documents => (None, self.document.map(RawValue::get)),
            None => (None, None),
        }
    }

    /// The most bytes that it has as Jina writes it.
    fn length(&self, prepared: &Prepared) -> usize {
        let (text, document) = self.document(prepared);
        let document = text.or(document).map_or(0, str::len);
        RESULT_MEMBERS + document + self.score.len()
    }

    /// Writes the result as Jina does.
    fn write_as_jina(&self, prepared: &Prepared, out: &mut String) {
        let _ = write!(out, "{{\"index\":{},", self.index());
        let _ = match self.document(prepared) {
            (Some(text), _) => write!(out, "\"document\":{{\"text\":{text}}},"),
            (None, Some(text)) if text.starts_with('"') => {
                write!(out, "\"document\":{{\"text\":{text}}},")
            }
            (None, Some(document)) => write!(out, "\"document\":{document},"),
            (None, None) => Ok(()),
        };
        let _ = write!(out, "\"relevance_score\":{}}}", self.score);
    }
}

#[derive(Deserialize)]
struct Tokens<'a> {
    #[serde(borrow, rename = "prompt_tokens")]
    prompt: Option<&'a RawValue>,
    /// Cohere's and `DashScope`'s word for them.
    #[serde(borrow, rename = "input_tokens")]
    input: Option<&'a RawValue>,
    #[serde(borrow, rename = "total_tokens")]
    total: Option<&'a RawValue>,
}

/// The tokens of the prompt and in all; where one is missing the other stands for it.
fn tokens(usage: &RawValue) -> (u64, u64) {
    let Ok(usage) = serde_json::from_str::<Tokens<'_>>(usage.get()) else { return (0, 0) };
    let count = |raw: Option<&RawValue>| raw.and_then(|raw| raw.get().parse().ok());
    let (prompt, total): (Option<u64>, Option<u64>) =
        (count(usage.prompt.or(usage.input)), count(usage.total));
    (prompt.or(total).unwrap_or(0), total.or(prompt).unwrap_or(0))
}
