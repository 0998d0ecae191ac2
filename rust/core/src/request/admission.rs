//! Authentication and authorization: the key of a request, and the access policy of its route.

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    client::io::ClientWatch,
    published::Settings,
    request::{browser, context::RequestContext, rejections},
    shared::Shared,
};
use sans_io::{
    api::{
        cors,
        error::{ApiError, Cause},
    },
    table::{Access, AuthError, Key, Route, Table},
};

/// Identifies the caller of an inference request. 503 before the first table is published; else
/// see [`Caller::identify`], and [`browser::check`] for a caller without a good key.
pub(crate) fn admit<W: ClientWatch>(context: &mut RequestContext<W>) -> Result<Caller, ApiError> {
    if context.table().version == 0 {
        return Err(rejections::starting());
    }
    let caller = Caller::identify(context.shared(), context.table(), &context.parts().headers)?;
    context.accounting.timeline.authenticated();
    if let Some(key) = caller.key() {
        context.watch().set_trusted();
        context.set_key(key);
        if !context.find_descriptor() {
            return Err(rejections::no_descriptor());
        }
    } else {
        let (shared, settings) = (context.shared(), context.settings());
        let parts = context.parts();
        let host = context.peer().host(&parts.headers);
        browser::check(shared, settings, context.endpoint(), parts, host)?;
        if !context.enter_keyless() {
            return Err(rejections::too_many_keyless());
        }
    }
    Ok(caller)
}

/// The sender of a request: a key, or the error that a route which is not public rejects it with.
#[derive(Debug)]
pub(crate) struct Caller(Result<Arc<Key>, ApiError>);

impl Caller {
    /// Checks the key of a request. A bad one is an error (401, 403) at once, on public routes too:
    /// its owner believes that it works. Without any it is one only where no route is public:
    /// otherwise the model decides, which is not known yet.
    pub(crate) fn identify(
        shared: &Shared,
        table: &Table,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        match shared.keys.load().check(headers) {
            Ok(key) => Ok(Self(Ok(key))),
            Err(AuthError::Missing) if table.any_public => Ok(Self(Err(needs_key()))),
            Err(error) => Err(rejected(error)),
        }
    }

    /// The caller's valid key; None on a public route without one.
    pub(crate) fn key(&self) -> Option<&Arc<Key>> {
        self.0.as_ref().ok()
    }

    /// Rejects a caller that may not use this route (401, 403).
    pub(crate) fn check(&self, route: &Route) -> Result<(), ApiError> {
        if route.access == Access::Public {
            return Ok(());
        }
        let key = self.0.as_ref().map_err(Clone::clone)?;
        let listed = match &route.access {
            Access::Keys(names) => names.iter().any(|name| key.is_called(name)),
            Access::Public | Access::Authed => true,
        };
        if listed && key.allows(&route.listed) {
            return Ok(());
        }
        Err(ApiError::new(
            Cause::Forbidden,
            format!(
                "Not allowed to access model {}. Use a key whose allowed models include it.",
                route.name
            ),
        ))
    }

    /// The error for a name that no route has. Without a key it is that for a forbidden one, so that
    /// no name can be guessed.
    pub(crate) fn no_such_model(&self, name: &str) -> ApiError {
        match &self.0 {
            Ok(_) => rejections::model_not_found(name),
            Err(error) => error.clone(),
        }
    }

    /// Whether the caller may use this route.
    pub(crate) fn may_use(&self, route: &Route) -> bool {
        self.check(route).is_ok()
    }

    /// Whether the caller may send the engines to hosts of its choice: who manages this server may.
    pub(crate) fn may_name_hosts(&self) -> bool {
        self.key().is_some_and(|key| key.may_manage())
    }

    /// Rejects a caller that may not use all that the engines of this route serve: what is not read
    /// of a request could name any of it. Which other models there are is not said.
    pub(crate) fn check_whole_engine(&self, table: &Table, route: &Route) -> Result<(), ApiError> {
        if table.beside(route).all(|(other, _)| self.may_use(other)) {
            return Ok(());
        }
        if self.key().is_none() {
            return Err(needs_key_for_unread());
        }
        let message = format!(
            "The engines of model {} also serve models which this API key may not use. What is \
             not read of this request could name them. Use a key that may use all of them, or \
             name the model in a JSON body.",
            route.name
        );
        Err(ApiError::new(Cause::Forbidden, message))
    }
}

/// Rejects (403) a WebSocket that a page of another origin opens: browsers ask nobody before, and
/// hand the answers to the page. Allowed are the pages of this host, and those of `[server.cors]`.
pub(crate) fn check_origin(
    settings: &Settings,
    headers: &HeaderMap,
    host: Option<&[u8]>,
) -> Result<(), ApiError> {
    let granted = settings.cors.as_ref().is_some_and(|cors| cors.grant(headers).is_some());
    if granted || !cors::is_foreign(headers, host) {
        return Ok(());
    }
    let message = "Pages of this Origin may not open a WebSocket here. The operator allows them \
        with origins in [server.cors].";
    Err(ApiError::new(Cause::Forbidden, message))
}

/// The error for a request without a key that may infer.
fn rejected(error: AuthError) -> ApiError {
    let (cause, message) = match error {
        AuthError::Missing => (
            Cause::Unauthorized,
            "No API key was sent; a placeholder such as EMPTY counts as none. Send a key as \
             \"Authorization: Bearer KEY\" or \"x-api-key: KEY\".",
        ),
        AuthError::Unknown => (
            Cause::Unauthorized,
            "Invalid authentication credentials: this API key is unknown or was revoked.",
        ),
        AuthError::Expired => (
            Cause::Unauthorized,
            "Invalid authentication credentials: this API key has expired. Ask the operator for a \
             new one.",
        ),
        AuthError::Scope => (
            Cause::Forbidden,
            "This API key does not have permission to access inference features: its scopes lack \
             \"inference\". Use another key.",
        ),
    };
    ApiError::new(cause, message)
}

/// The error for a model that a caller without a key may not use. Whether there is such a model is
/// not said.
fn needs_key() -> ApiError {
    let message = "No API key was sent, and without one only the models that GET /v1/models lists \
        can be used. Send a key as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\", or name \
        one of those models.";
    ApiError::new(Cause::Unauthorized, message)
}

/// The error for a request of a caller without a key that could name, in what is not read of it,
/// another model of the engine than the one that he may use.
fn needs_key_for_unread() -> ApiError {
    let message = "No API key was sent, and what is not read of this request could name another \
        model of the same engine, which needs one. Send a key as \"Authorization: Bearer KEY\" or \
        \"x-api-key: KEY\", or name the model in the JSON body of a POST.";
    ApiError::new(Cause::Unauthorized, message)
}

/// Rejects a path of the generic proxy that the route does not open. Administrative paths of any
/// target are shut, since the target is not chosen yet.
pub(crate) fn check_proxy(route: &Route, path: &str) -> Result<(), ApiError> {
    if !route.generic_proxy {
        let message = format!(
            "The generic proxy is not enabled for model {}. The operator enables it with \
             generic_proxy = true on the route.",
            route.name
        );
        return Err(ApiError::new(Cause::NotFound, message));
    }
    if route.targets().all(|target| target.model.proxy_paths.allow(path)) {
        return Ok(());
    }
    let message = format!(
        "The generic proxy does not lead to {path} of the engine: it is no inference path."
    );
    Err(ApiError::new(Cause::NotFound, message))
}
