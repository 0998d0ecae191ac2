//! Who may do what: the key of a request, and the access policy of the route that it wants.

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    client::io::ClientWatch,
    request::{context::RequestContext, rejections},
    shared::Shared,
};
use sans_io::{
    api::error::{ApiError, Cause},
    table::{Access, AuthError, Key, Keys, Route, Table},
};

/// Admits the caller of an inference request, where the server knows its models already.
pub(crate) fn admit<W: ClientWatch>(context: &mut RequestContext<W>) -> Result<Caller, ApiError> {
    if context.shared().table.load().version == 0 {
        return Err(rejections::starting());
    }
    let caller = Caller::identify(context.shared(), &context.parts().headers)?;
    context.accounting.timeline.authenticated();
    if let Some(key) = caller.key() {
        context.accounting.set_key(&key.id);
    }
    Ok(caller)
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Caller(Result<Arc<Key>, ApiError>);

impl Caller {
    /// The caller of an inference request. Without a good key it goes on only if there is a public
    /// route, which will be known once the model is.
    pub(crate) fn identify(shared: &Shared, headers: &HeaderMap) -> Result<Self, ApiError> {
        let key = authenticate(&shared.keys.load(), headers).and_then(|key| {
            if key.may_infer() {
                return Ok(key);
            }
            Err(ApiError::new(
                Cause::Forbidden,
                "This API key does not have permission to access inference features: its scopes \
                 lack \"inference\". Use another key.",
            ))
        });
        match key {
            Err(error) if !shared.table.load().any_public => Err(error),
            key => Ok(Self(key)),
        }
    }

    /// The key, if there is a good one.
    pub(crate) fn key(&self) -> Option<&Arc<Key>> {
        self.0.as_ref().ok()
    }

    /// Whether it may use a route; what it is told if not.
    pub(crate) fn check(&self, route: &Route) -> Result<(), ApiError> {
        if route.access == Access::Public {
            return Ok(());
        }
        let key = self.0.as_ref().map_err(Clone::clone)?;
        let meant = match &route.access {
            Access::Keys(names) => names.iter().any(|name| key.is_called(name)),
            Access::Public | Access::Authed => true,
        };
        if meant && key.allows(&route.name) {
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

    /// Whether it may use a route.
    pub(crate) fn may_use(&self, route: &Route) -> bool {
        self.check(route).is_ok()
    }

    /// A request whose body is not read could name any model that the engines behind it serve: then
    /// all must be allowed.
    pub(crate) fn check_all_names(&self, table: &Table, route: &Route) -> Result<(), ApiError> {
        for target in route.targets() {
            let serves_more = table.routes_to(&target.model).filter(|other| {
                other.targets().any(|one| {
                    one.model.name == target.model.name && one.served_name != target.served_name
                })
            });
            for other in serves_more {
                self.check(other).map_err(|_| {
                    let message = format!(
                        "The engines of model {} also serve {}, which this API key may not use. \
                         What is not read of this request could name it. Use a key that may use \
                         both, or name the model in a JSON body.",
                        route.name, other.name
                    );
                    ApiError::new(Cause::Forbidden, message)
                })?;
            }
        }
        Ok(())
    }
}

/// The key of a request, or what its sender is told.
fn authenticate(keys: &Keys, headers: &HeaderMap) -> Result<Arc<Key>, ApiError> {
    keys.check(headers).map_err(|error| {
        let message = match error {
            AuthError::Missing => {
                "No API key was sent. Send one as \"Authorization: Bearer KEY\" or \"x-api-key: \
                 KEY\"."
            }
            AuthError::Unknown => {
                "Invalid authentication credentials: this API key is unknown or \
                was revoked."
            }
            AuthError::Expired => {
                "Invalid authentication credentials: this API key has expired. Ask the operator \
                 for a new one."
            }
        };
        ApiError::new(Cause::Unauthorized, message)
    })
}
