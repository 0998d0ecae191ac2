//! The limits of transformations, in bytes, and the memory for what is held back.

use bytes::BytesMut;

use super::error::TransformError;

/// The most of a frame that is held back where it is edited, and of a whole response while its
/// `model` is searched for.
pub(super) const EDITED_HELD: usize = 4 * 1024 * 1024;

/// The most of one frame that passes, in bytes. Pictures in base64 have some MB; a frame that is
/// longer is most likely one without an end, which no limit of a stream's time would find.
pub(super) const FRAME_MOST: u64 = 64 * 1024 * 1024;

/// The error for a frame of more than so many bytes.
pub(super) fn endless_frame(most: u64) -> TransformError {
    TransformError::Unusable(format!("its event stream has a frame of more than {most} bytes"))
}

/// Appends to what is held back. The memory grows by no more than a half where it has to, and so
/// only up to `most` bytes: doubled, it would be mostly empty in the worst moment.
pub(super) fn append(held: &mut BytesMut, data: &[u8], most: usize) {
    if !held.try_reclaim(data.len()) {
        let (length, needed) = (held.len(), held.len() + data.len());
        let mut larger = BytesMut::with_capacity(needed.max((length + length / 2).min(most)));
        larger.extend_from_slice(held);
        *held = larger;
    }
    held.extend_from_slice(data);
}
