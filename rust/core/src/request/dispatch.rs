//! A request whose route is known: what goes to an engine, and by which rules.

use std::{borrow::Cow, sync::Arc};

use sans_io::{
    api::endpoints::{Inference, STORED_RESPONSE},
    codec::headers::ForEngine,
    table::Route,
};

/// One request's way to the engines of a route.
pub(crate) struct Dispatch {
    pub(crate) route: Arc<Route>,
    /// The path toward the engine, unless the plan of an attempt has another.
    pub(crate) path: Cow<'static, str>,
    pub(crate) job: Job,
}

/// The engine's part of a request.
pub(crate) enum Job {
    /// `POST` of a body that was looked into.
    Inference {
        inference: Inference,
        /// The client compressed it, and it was decoded here.
        decoded: bool,
        /// It is JSON, whatever the client called it.
        json: bool,
        /// The instance that keeps the response from which this one goes on.
        instance: Option<Arc<str>>,
    },
    /// A request for a response that this instance keeps. `cancel`: it is `POST .../cancel`.
    StoredResponse { instance: Arc<str>, cancel: bool },
    /// A WebSocket whose query names the model.
    Realtime,
    /// A request that is not looked into beyond its model. `websocket`: it asks for one.
    Proxy { websocket: bool },
}

impl Job {
    /// The treatment of request and response; None: nothing is looked into.
    pub(crate) fn inference(&self) -> Option<Inference> {
        match self {
            Self::Inference { inference, .. } => Some(*inference),
            Self::StoredResponse { .. } => Some(STORED_RESPONSE),
            Self::Realtime | Self::Proxy { .. } => None,
        }
    }

    /// Whether a request that reached an engine which then died may be sent once more.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Inference { inference, .. } => inference.retryable,
            Self::StoredResponse { cancel, .. } => !cancel,
            Self::Realtime | Self::Proxy { .. } => false,
        }
    }

    /// The only instance that can do it.
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

    /// Whether it leads to any path of the engine but the administrative ones.
    pub(crate) fn is_proxy(&self) -> bool {
        matches!(self, Self::Proxy { .. })
    }

    /// Whether it asks for a WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Self::Realtime | Self::Proxy { websocket: true })
    }

    /// What is special about the head toward the engine. `translated`: neither the body nor its
    /// dialect is the client's.
    pub(crate) fn for_engine(&self, translated: bool) -> ForEngine {
        let (decoded, json) = match self {
            Self::Inference { decoded, json, .. } => (*decoded, *json),
            _ => (false, false),
        };
        ForEngine {
            // What is not looked into may be compressed as the client likes.
            encoded_response: matches!(self, Self::Realtime | Self::Proxy { .. }),
            decoded,
            json,
            translated,
            upgrade: self.is_websocket(),
        }
    }
}
