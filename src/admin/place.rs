//! A request's place: among those at work, and for its connection among those that do not give way to others.
//! An answer that goes on, such as an event stream, holds on to it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serving::Seat;

/// A request's place, until it is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    seat: Option<Arc<Seat<()>>>,
}

impl Place {
    /// One for a request on the connection that has this seat; none if as many are at work as may be.
    pub(crate) fn take(places: &Arc<Semaphore>, seat: Option<Arc<Seat<()>>>) -> Option<Self> {
        let permit = places.clone().try_acquire_owned().ok()?;
        if let Some(seat) = &seat {
            seat.keep();
        }
        Some(Self { _permit: permit, seat })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            seat.release();
        }
    }
}
