//! Answers of name servers, for as long as they said and never more than so many.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use super::Found;

/// Answers kept at once.
const ROOM: usize = 4096;
/// However long a zone says (RFC 8767 §4 advises a day or so).
const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<(String, RecordType), (Instant, Found)>>);

impl Cache {
    pub(super) fn get(&self, name: &str, kind: RecordType, now: Instant) -> Option<Found> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(name.to_owned(), kind)).filter(|(until, _)| *until > now).map(|(_, found)| found.clone())
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn put(&self, name: &str, kind: RecordType, found: Found, ttl: Duration, now: Instant) {
        if ttl.is_zero() {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ROOM {
            known.retain(|_, (until, _)| *until > now);
        }
        if known.len() >= ROOM {
            // Full of what is still good: any half is as good as the other.
            let mut keep = false;
            known.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        known.insert((name.to_owned(), kind), (now + ttl.min(LONGEST), found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::resolver::Failure;

    #[test]
    fn forgets_in_time_and_is_never_larger_than_its_room() {
        let cache = Cache::default();
        let now = Instant::now();
        cache.put("a", RecordType::A, Err(Failure::NoName), Duration::from_secs(9), now);

        assert!(cache.get("a", RecordType::A, now).is_some());
        assert!(cache.get("a", RecordType::MX, now).is_none());
        assert!(cache.get("a", RecordType::A, now + Duration::from_secs(9)).is_none());

        for number in 0..3 * ROOM {
            cache.put(&number.to_string(), RecordType::A, Err(Failure::NoData), Duration::from_secs(9), now);
        }
        assert!(cache.0.lock().unwrap().len() <= ROOM);
    }
}
