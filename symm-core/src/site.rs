//! Where in the user's source a scope was opened or a call was made.

use std::fmt;
use std::panic::Location;

use crossbeam_utils::atomic::AtomicCell;

/// A place in the user's source.
///
/// ```
/// use symm_core::{Host, World, groups};
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(1, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let scope = tp.scope()?;
///     assert!(scope.site().to_string().contains(".rs:"));
///     scope.close()
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Site(Source);

/// Two words, because sites lie in every frame and in errors.
#[derive(Clone, Copy)]
enum Source {
    Macro(&'static Recorded),
    Caller(&'static Location<'static>),
}

/// What a macro records of the place where it stands. The function's name is worked out only when
/// it is printed.
#[derive(Debug)]
pub struct Recorded {
    file: &'static str,
    line: u32,
    column: u32,
    function: fn() -> &'static str,
}

impl Recorded {
    /// Used by the macros.
    pub const fn new(
        file: &'static str,
        line: u32,
        column: u32,
        function: fn() -> &'static str,
    ) -> Self {
        Self {
            file,
            line,
            column,
            function,
        }
    }
}

impl Site {
    pub(crate) fn recorded(place: &'static Recorded) -> Self {
        Self(Source::Macro(place))
    }

    /// The caller of a `#[track_caller]` function.
    #[track_caller]
    pub(crate) fn caller() -> Self {
        Self(Source::Caller(Location::caller()))
    }

    /// The source file, as the compiler names it.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// assert_eq!(scope.site().file(), file!());
    /// scope.close()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn file(&self) -> &'static str {
        match self.0 {
            Source::Macro(place) => place.file,
            Source::Caller(place) => place.file(),
        }
    }

    /// The line, from 1.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let (scope, line) = (tp.scope()?, line!());
    /// assert_eq!(scope.site().line(), line);
    /// scope.close()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn line(&self) -> u32 {
        match self.0 {
            Source::Macro(place) => place.line,
            Source::Caller(place) => place.line(),
        }
    }

    /// The column, from 1.
    ///
    /// ```
    /// # use symm_core::{Host, World, groups};
    /// # groups! { pub Tp = "tp"; }
    /// # World::<Host>::run(1, |world| {
    /// # let tp = world.split::<Tp>(0, 0)?;
    /// let scope = tp.scope()?;
    /// assert_eq!(scope.site().column(), 1 + "let scope = tp.".len() as u32);
    /// scope.close()?;
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn column(&self) -> u32 {
        match self.0 {
            Source::Macro(place) => place.column,
            Source::Caller(place) => place.column(),
        }
    }

    /// The function around the site, where a macro recorded it.
    ///
    /// ```
    /// # use symm_core::{Config, Error, Group, Host, Result, groups, host, symmetric};
    /// # groups! { pub Tp = "tp"; }
    /// # let first = host::At::Call(host::CallKind::Register, 1);
    /// # let fails = |rank| host::Fault::new(rank, first, host::What::Fail);
    /// # let options = host::Options::default().fault(fails(0)).fault(fails(1));
    /// # let config = Config::<Host>::default().options(options);
    /// #[symmetric(group = tp)]
    /// fn layer(tp: &Group<Tp, Host>) -> Result<()> {
    ///     tp.zeros::<f32>(8).map(drop)
    /// }
    /// // On a machine where registering fails:
    /// let failed = config.run(2, |world| layer(&world.split(0, 0)?));
    /// let Err(Error::Registration { site, .. }) = failed else { panic!("{failed:?}") };
    /// assert!(site.function().is_some_and(|function| function.ends_with("layer")));
    /// # Ok::<(), symm_core::Error>(())
    /// ```
    pub fn function(&self) -> Option<&'static str> {
        match self.0 {
            Source::Macro(place) => Some((place.function)()),
            Source::Caller(_) => None,
        }
    }
}

/// The latest of some sites, without a lock: one that is read while another is stored may be either.
#[derive(Debug, Default)]
pub(crate) struct SiteCell {
    recorded: AtomicCell<Option<&'static Recorded>>,
    caller: AtomicCell<Option<&'static Location<'static>>>,
}

impl SiteCell {
    #[inline]
    pub(crate) fn store(&self, site: Site) {
        let (recorded, caller) = match site.0 {
            Source::Macro(place) => (Some(place), None),
            Source::Caller(place) => (None, Some(place)),
        };
        self.recorded.store(recorded);
        self.caller.store(caller);
    }

    /// `None` before the first.
    pub(crate) fn load(&self) -> Option<Site> {
        let recorded = self.recorded.load().map(Source::Macro);
        let source = recorded.or_else(|| self.caller.load().map(Source::Caller));
        source.map(Site)
    }
}

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        (self.file(), self.line(), self.column()) == (other.file(), other.line(), other.column())
    }
}

impl Eq for Site {}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file(), self.line())?;
        match self.function() {
            Some(function) => write!(f, " in {function}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
