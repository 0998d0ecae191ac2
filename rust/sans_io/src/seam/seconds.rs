//! Times of the documents: seconds, as in the configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A length of time.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| D::Error::custom(format_args!("{seconds} is no number of seconds, 0 or more")))
}

/// A limit, where 0 is none. The shortest limit is a nanosecond.
pub(super) fn limit<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let limit = duration(deserializer)?;
    Ok((!limit.is_zero()).then_some(limit))
}
