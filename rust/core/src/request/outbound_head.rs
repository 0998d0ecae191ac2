//! Builds the head of a request toward an engine or the management API. The exchange adds the
//! framing field and the empty line.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::{
    client::io::ClientWatch,
    request::{context::RequestContext, dispatch::Dispatch},
};
use sans_io::{
    api::plan::Plan,
    codec::{headers, percent},
    table::Instance,
};

/// The buffer's first capacity, enough for most heads, in bytes.
const CAPACITY: usize = 512;

/// The head toward an engine. The plan may replace the path, and the model in the query.
pub(crate) fn for_engine<W: ClientWatch>(
    context: &RequestContext<W>,
    instance: &Instance,
    dispatch: &Dispatch,
    plan: &Plan,
) -> BytesMut {
    let mut head = BytesMut::with_capacity(CAPACITY);
    let path = plan.path().unwrap_or(&dispatch.path);
    write(&mut head, &[context.method().as_str(), " ", path]);
    if let Some(query) = query(context, dispatch) {
        match plan.rename().filter(|_| dispatch.job.names_model_in_query()) {
            Some(target) => {
                let query = percent::with_model_in_query(&query, &target.served_name);
                write(&mut head, &["?", &query]);
            }
            None => write(&mut head, &["?", &query]),
        }
    }
    write(&mut head, &[" HTTP/1.1\r\nhost: ", &instance.host, "\r\n"]);
    let with = dispatch.job.for_engine(plan.substitute().is_some());
    headers::put_for_engine(&mut head, &context.parts().headers, with);
    write_forwarding(&mut head, context);
    write_our_fields(&mut head, context, instance);
    head
}

/// The query for an engine: the client's without credentials. On rows whose requests are known a
/// field's name tells one; through the generic proxy such a field may be the engine's own, so only
/// what is known to be a credential here is cut out.
fn query<'c, W: ClientWatch>(
    context: &'c RequestContext<W>,
    dispatch: &Dispatch,
) -> Option<Cow<'c, str>> {
    let parts = context.parts();
    let query = parts.uri.query()?;
    let (keys, by_name) = (context.shared().keys.load(), !dispatch.job.is_proxy());
    percent::without_pairs(query, |name, value| {
        by_name && percent::names_credential(name)
            || keys.is_credential(value.as_bytes(), &parts.headers)
    })
}

/// The head toward the management API: the client's own, with its address and scheme.
pub(crate) fn for_management<W: ClientWatch>(
    context: &RequestContext<W>,
    instance: &Instance,
) -> BytesMut {
    let mut head = BytesMut::with_capacity(CAPACITY);
    let target = context.parts().uri.path_and_query().map_or("/", |target| target.as_str());
    write(&mut head, &[context.method().as_str(), " ", target, " HTTP/1.1\r\n"]);
    headers::put_for_control_plane(&mut head, &context.parts().headers);
    write_forwarding(&mut head, context);
    write_our_fields(&mut head, context, instance);
    head
}

/// Writes who the client is and by which URL it came, as far as this server knows.
fn write_forwarding<W: ClientWatch>(head: &mut BytesMut, context: &RequestContext<W>) {
    let peer = context.peer();
    let host = peer.host(&context.parts().headers);
    headers::put_forwarding(head, &peer.address, peer.scheme, host);
}

/// Writes the instance's credential, and an id of this attempt alone. An engine uses it as the id
/// of its work, where a retry must not collide with the attempt before it.
fn write_our_fields<W: ClientWatch>(
    head: &mut BytesMut,
    context: &RequestContext<W>,
    instance: &Instance,
) {
    if let Some(authorization) = &instance.authorization {
        write(head, &["authorization: ", authorization, "\r\n"]);
    }
    let id = context.accounting.request_id();
    let mut number = itoa::Buffer::new();
    let number = number.format(context.worker().next_attempt());
    write(head, &["x-request-id: ", id, "-", number, "\r\n"]);
}

fn write(head: &mut BytesMut, texts: &[&str]) {
    for text in texts {
        head.put_slice(text.as_bytes());
    }
}
