//! A group's account of its arena's segments: exactly one window for each segment that the group
//! has touched.

use std::sync::Arc;

use crate::backend::Backend;
use crate::pool::segment::Segment;

/// What a group knows of one segment of its arena.
#[derive(Debug)]
enum Row<B: Backend> {
    /// No block of the group ever lay in it: it is of no concern.
    Untouched,
    /// It holds, or held, a block of the group and has no window yet.
    Pending,
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

/// The rows, by index of the segment.
#[derive(Debug)]
pub(crate) struct Ledger<B: Backend> {
    rows: Vec<Row<B>>,
    pending: usize,
}

impl<B: Backend> Default for Ledger<B> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            pending: 0,
        }
    }
}

impl<B: Backend> Ledger<B> {
    /// Notes that a block of the group lies in the segment.
    pub(crate) fn touch(&mut self, segment: usize) {
        if segment >= self.rows.len() {
            self.rows.resize_with(segment + 1, || Row::Untouched);
        }
        if matches!(self.rows[segment], Row::Untouched) {
            self.rows[segment] = Row::Pending;
            self.pending += 1;
        }
    }

    /// Whether nothing waits for a window. What every scope's close asks.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending == 0
    }

    /// The segments that wait for a window, in the order that all ranks share.
    pub(crate) fn pending(&self) -> Vec<usize> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| matches!(row, Row::Pending))
            .map(|(segment, _)| segment)
            .collect()
    }

    /// Enters what NCCL said to a pending segment.
    pub(crate) fn settle(&mut self, segment: usize, window: Option<(B::Window, Arc<Segment<B>>)>) {
        if let Some(row @ Row::Pending) = self.rows.get_mut(segment) {
            *row = window.map_or(Row::Refused, |(window, segment)| {
                Row::Window(window, segment)
            });
            self.pending -= 1;
        }
    }

    /// What a call has to know of the segment.
    pub(crate) fn standing(&self, segment: usize) -> Standing {
        match self.rows.get(segment) {
            Some(Row::Window(..)) => Standing::Window,
            Some(Row::Refused) => Standing::Refused,
            Some(Row::Untouched | Row::Pending) | None => Standing::None,
        }
    }

    /// The segment's window.
    pub(crate) fn window(&self, segment: usize) -> Option<&B::Window> {
        match self.rows.get(segment) {
            Some(Row::Window(window, _)) => Some(window),
            _ => None,
        }
    }

    /// Number of windows.
    pub(crate) fn windows(&self) -> usize {
        self.rows
            .iter()
            .filter(|row| matches!(row, Row::Window(..)))
            .count()
    }

    /// All windows with their segments, for deregistration.
    pub(crate) fn into_windows(self) -> Vec<(B::Window, Arc<Segment<B>>)> {
        let windows = self.rows.into_iter().filter_map(|row| match row {
            Row::Window(window, segment) => Some((window, segment)),
            _ => None,
        });
        windows.collect()
    }
}
