//! A group's account of the segments it works on: exactly one window for each that the group has
//! touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backend::Backend;
use crate::pool::WindowState;
use crate::pool::arena::ArenaId;
use crate::pool::segment::Segment;

/// What a group knows of one segment.
#[derive(Debug)]
enum Row<B: Backend> {
    /// No block of the group ever lay in it: it is of no concern.
    Untouched,
    /// It holds, or held, a block of the group and has no window yet.
    Pending(Arc<Segment<B>>),
    /// It has its window. The window keeps the segment, so that it is deregistered before the
    /// segment is freed.
    Window(B::Window, Arc<Segment<B>>),
    /// NCCL gave no window for it (success with NULL).
    Refused,
}

/// What a call has to know of an operand's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has a window.
    Window,
    /// NCCL gave no window.
    Refused,
    /// It has none in this group.
    None,
}

/// The segments of one arena, by their index in it.
#[derive(Debug)]
struct Book<B: Backend> {
    arena: ArenaId,
    rows: Vec<Row<B>>,
}

/// A segment that waits for a window.
#[derive(Debug)]
pub(crate) struct Pending<B: Backend> {
    pub(crate) arena: ArenaId,
    /// The position of the arena's book, which is the same on all ranks.
    pub(crate) book: usize,
    pub(crate) index: usize,
    pub(crate) segment: Arc<Segment<B>>,
}

/// One book for each arena, in the order in which the group came to them: its own first, then those
/// of graph pools. The order is that of the program, so it is the same on all ranks.
#[derive(Debug)]
pub(crate) struct Ledger<B: Backend> {
    books: Vec<Book<B>>,
    pending: usize,
    unsettled: Unsettled,
}

/// Segments of a group that wait for a window, in whichever of its ledgers: what every scope's close
/// asks, without a lock. Whoever makes a block that waits closes its scope on the same thread, or
/// leaves the arena's lock between itself and the next user of the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsettled(Arc<AtomicUsize>);

impl Unsettled {
    /// Whether none waits.
    #[inline]
    pub(crate) fn is_zero(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl<B: Backend> Ledger<B> {
    pub(crate) fn new(unsettled: &Unsettled) -> Self {
        Self {
            books: Vec::new(),
            pending: 0,
            unsettled: unsettled.clone(),
        }
    }

    fn wait(&mut self, segments: usize) {
        self.pending += segments;
        self.unsettled.0.fetch_add(segments, Ordering::Relaxed);
    }

    fn wait_no_more(&mut self, segments: usize) {
        self.pending -= segments;
        self.unsettled.0.fetch_sub(segments, Ordering::Relaxed);
    }

    /// Notes that a block of the group lies in the segment, which is looked up the first time.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        arena: ArenaId,
        index: usize,
        segment: impl FnOnce() -> Option<Arc<Segment<B>>>,
    ) {
        let known = self.books.iter().position(|book| book.arena == arena);
        let book = known.unwrap_or_else(|| {
            let rows = Vec::new();
            self.books.push(Book { arena, rows });
            self.books.len() - 1
        });
        let rows = &mut self.books[book].rows;
        if index >= rows.len() {
            rows.resize_with(index + 1, || Row::Untouched);
        }
        if matches!(rows[index], Row::Untouched)
            && let Some(segment) = segment()
        {
            rows[index] = Row::Pending(segment);
            self.wait(1);
        }
    }

    /// Whether nothing waits for a window.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending == 0
    }

    /// The segments that wait for a window, in the order that all ranks share.
    pub(crate) fn pending(&self) -> Vec<Pending<B>> {
        let rows = self.books.iter().enumerate().flat_map(|(at, book)| {
            let rows = book.rows.iter().enumerate();
            rows.map(move |(index, row)| (book.arena, at, index, row))
        });
        rows.filter_map(|(arena, book, index, row)| match row {
            Row::Pending(segment) => Some(Pending {
                arena,
                book,
                index,
                segment: Arc::clone(segment),
            }),
            _ => None,
        })
        .collect()
    }

    /// Enters what NCCL said to a pending segment.
    pub(crate) fn settle(&mut self, pending: Pending<B>, window: Option<B::Window>) {
        let book = self
            .books
            .iter_mut()
            .find(|book| book.arena == pending.arena);
        let row = book.and_then(|book| book.rows.get_mut(pending.index));
        if let Some(row @ Row::Pending(_)) = row {
            *row = window.map_or(Row::Refused, |window| Row::Window(window, pending.segment));
            self.wait_no_more(1);
        }
    }

    /// What a call has to know of the segment.
    pub(crate) fn standing(&self, arena: ArenaId, index: usize) -> Standing {
        match self.row(arena, index) {
            Some(Row::Window(..)) => Standing::Window,
            Some(Row::Refused) => Standing::Refused,
            Some(Row::Untouched | Row::Pending(_)) | None => Standing::None,
        }
    }

    /// The same, for snapshots; `None` if the segment is of no concern to the group.
    pub(crate) fn state(&self, arena: ArenaId, index: usize) -> Option<WindowState> {
        match self.row(arena, index)? {
            Row::Untouched => None,
            Row::Pending(_) => Some(WindowState::Pending),
            Row::Window(..) => Some(WindowState::Registered),
            Row::Refused => Some(WindowState::Refused),
        }
    }

    /// The segment's window.
    #[inline]
    pub(crate) fn window(&self, arena: ArenaId, index: usize) -> Option<&B::Window> {
        match self.row(arena, index) {
            Some(Row::Window(window, _)) => Some(window),
            _ => None,
        }
    }

    /// Number of windows.
    pub(crate) fn windows(&self) -> usize {
        let rows = self.books.iter().flat_map(|book| &book.rows);
        rows.filter(|row| matches!(row, Row::Window(..))).count()
    }

    /// Closes the book of an arena that ends before the group, and returns its windows with their
    /// segments, for deregistration.
    pub(crate) fn close(&mut self, arena: ArenaId) -> Vec<(B::Window, Arc<Segment<B>>)> {
        let Some(at) = self.books.iter().position(|book| book.arena == arena) else {
            return Vec::new();
        };
        let book = self.books.remove(at);
        self.wait_no_more(book.pending());
        book.into_windows().collect()
    }

    /// Forgets the arena's segments from `keep` on, which end before the group, and returns their
    /// windows with them, for deregistration.
    pub(crate) fn cut(&mut self, arena: ArenaId, keep: usize) -> Vec<(B::Window, Arc<Segment<B>>)> {
        let book = self.books.iter_mut().find(|book| book.arena == arena);
        let Some(book) = book.filter(|book| keep < book.rows.len()) else {
            return Vec::new();
        };
        let cut = Book {
            arena,
            rows: book.rows.split_off(keep),
        };
        self.wait_no_more(cut.pending());
        cut.into_windows().collect()
    }

    /// All windows with their segments, for deregistration.
    pub(crate) fn take_windows(&mut self) -> Vec<(B::Window, Arc<Segment<B>>)> {
        self.wait_no_more(self.pending);
        let books = std::mem::take(&mut self.books);
        books.into_iter().flat_map(Book::into_windows).collect()
    }

    #[inline]
    fn row(&self, arena: ArenaId, index: usize) -> Option<&Row<B>> {
        let book = self.books.iter().find(|book| book.arena == arena)?;
        book.rows.get(index)
    }
}

impl<B: Backend> Book<B> {
    fn pending(&self) -> usize {
        let waiting = self.rows.iter();
        waiting.filter(|row| matches!(row, Row::Pending(_))).count()
    }

    fn into_windows(self) -> impl Iterator<Item = (B::Window, Arc<Segment<B>>)> {
        self.rows.into_iter().filter_map(|row| match row {
            Row::Window(window, segment) => Some((window, segment)),
            _ => None,
        })
    }
}
