//! The streams of a rank: its own, further ones, and which of them a thread uses.

use super::world::World;
use crate::backend::Backend;
use crate::capture::active;
use crate::error::{Error, Result};
use crate::scope::{StreamScope, routing};
use crate::site::Site;

impl<B: Backend> World<B> {
    /// The stream that this rank uses outside of [`on_stream`](World::on_stream).
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let side = world.new_stream()?;
    /// let _side = world.on_stream(&side)?;
    /// let home = world.on_stream(world.stream())?; // back on the rank's own, inside of the other
    /// let x = world.pool().zeros::<f32>(4)?;
    /// assert_eq!(format!("{:?}", x.stream()), format!("{:?}", world.stream()));
    /// home.end()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn stream(&self) -> &B::Stream {
        &self.rank.stream
    }

    /// A new stream of the rank's device, ordered with no other.
    ///
    /// ```
    /// # use symm_core::{Host, World};
    /// # World::<Host>::run(1, |world| {
    /// let (one, other) = (world.new_stream()?, world.new_stream()?);
    /// let on_one = world.on_stream(&one)?;
    /// let x = world.pool().from_slice(&[1.0f32, 2.0])?;
    /// on_one.end()?;
    /// let _on_other = world.on_stream(&other)?;
    /// assert_eq!(x.to_vec()?, [1.0, 2.0]); // buffers order the streams that use them
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the backend.
    pub fn new_stream(&self) -> Result<B::Stream> {
        B::new_stream(&self.rank.device)
    }

    /// Makes `stream` this thread's current one while the guard lives. In a capture the stream is
    /// captured too: its work comes behind what is captured by then, and the graph ends behind it.
    ///
    /// ```
    /// # use symm_core::{Host, ReduceOp, World, groups, symm};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(2, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let mut x = symm!(group = tp, { tp.from_slice(&[1.0f32])? })?;
    /// let side = world.new_stream()?;
    /// let guard = world.on_stream(&side)?;
    /// tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?; // on `side`
    /// guard.end()?;
    /// assert_eq!(x.to_vec()?, [2.0]); // on the world's stream, behind it
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for a stream of another device.
    #[track_caller]
    pub fn on_stream(&self, stream: &B::Stream) -> Result<StreamScope<B>> {
        if !B::stream_on(&self.rank.device, stream) {
            let (what, found) = ("on_stream: the stream".into(), "another device".into());
            return Err(Error::WrongDevice {
                what,
                found,
                device: self.device().into(),
            });
        }
        if let Some(active) = active::on_this_thread(&self.rank) {
            active.join(stream)?;
        }
        StreamScope::open(stream, Site::caller())
    }

    /// Waits until the work on this thread's current stream is done.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use symm_core::{Host, World, host, plain_mut};
    /// # World::<Host>::run(1, |world| {
    /// let (mut x, done) = (world.pool().zeros::<f32>(1)?, Arc::new(AtomicBool::new(false)));
    /// let at_end = Arc::clone(&done);
    /// host::launch([], [plain_mut(&mut x)], move |[], [_]| at_end.store(true, Ordering::SeqCst))?;
    /// world.synchronize()?;
    /// assert!(done.load(Ordering::SeqCst)); // the kernel has run
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of work that was enqueued earlier; [`Error::Poisoned`]; [`Error::InCapture`].
    pub fn synchronize(&self) -> Result<()> {
        active::refuse(
            &self.rank,
            "waiting for a stream",
            "nothing runs before the graph is launched: wait after a launch",
        )?;
        B::synchronize(&routing::stream(&self.rank))?;
        self.rank.check()
    }
}
