//! A request whose route is known: its path and job at an engine.

use std::{borrow::Cow, sync::Arc};

use sans_io::{
    api::endpoints::{Inference, STORED_RESPONSE},
    codec::headers::ForEngine,
    table::Route,
};

/// One request, bound to a route.
pub(crate) struct Dispatch {
    /// The public name's route. A retry may replace it by its successor in a newer table.
    pub(crate) route: Arc<Route>,
    /// The path at the engine, without the query, unless the plan of an attempt has another.
    pub(crate) path: Cow<'static, str>,
    /// The engine's part.
    pub(crate) job: Job,
}

/// The work that a request asks of an engine.
pub(crate) enum Job {
    /// `POST` of a body that was scanned.
    Inference {
        /// The treatment by the endpoint.
        inference: Inference,
        /// The client's body was compressed, and is decoded here.
        decoded: bool,
        /// The body is JSON, whatever its `Content-Type` says.
        json: bool,
        /// The id of the instance that keeps the response which this request continues.
        instance: Option<Arc<str>>,
    },
    /// A request about a response that this instance keeps. `cancel`: it is `POST .../cancel`.
    StoredResponse { instance: Arc<str>, cancel: bool },
    /// A WebSocket whose query names the model.
    Realtime,
    /// A request of the generic proxy, scanned for its model at most. `websocket`: it asks for one.
    Proxy { websocket: bool },
}

impl Job {
    /// The treatment of request and response; None: both pass through unread.
    pub(crate) fn inference(&self) -> Option<Inference> {
        match self {
            Self::Inference { inference, .. } => Some(*inference),
            Self::StoredResponse { .. } => Some(STORED_RESPONSE),
            Self::Realtime | Self::Proxy { .. } => None,
        }
    }

    /// Whether a request that was delivered to an engine which then died may be sent once more.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Inference { inference, .. } => inference.retryable,
            Self::StoredResponse { cancel, .. } => !cancel,
            Self::Realtime | Self::Proxy { .. } => false,
        }
    }

    /// The id of the only instance that can do it; None: any instance of the route can.
    pub(crate) fn pinned(&self) -> Option<&Arc<str>> {
        match self {
            Self::Inference { instance, .. } => instance.as_ref(),
            Self::StoredResponse { instance, .. } => Some(instance),
            Self::Realtime | Self::Proxy { .. } => None,
        }
    }

    /// Whether the query names the model.
    pub(crate) fn names_model_in_query(&self) -> bool {
        matches!(self, Self::Realtime)
    }

    /// Whether it is a request of the generic proxy.
    pub(crate) fn is_proxy(&self) -> bool {
        matches!(self, Self::Proxy { .. })
    }

    /// Whether it asks for a WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Self::Realtime | Self::Proxy { websocket: true })
    }

    /// Options for the head toward the engine. `translated`: another body, in another dialect,
    /// replaces the client's.
    pub(crate) fn for_engine(&self, translated: bool) -> ForEngine {
        let (decoded, json) = match self {
            Self::Inference { decoded, json, .. } => (*decoded, *json),
            _ => (false, false),
        };
        ForEngine {
            // A response that passes unread may be compressed as the client likes.
            encoded_response: matches!(self, Self::Realtime | Self::Proxy { .. }),
            decoded,
            json,
            translated,
            upgrade: self.is_websocket(),
        }
    }
}
