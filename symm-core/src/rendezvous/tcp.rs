//! Joins the hubs of processes: rank 0 listens at the address that all were given and relays; every
//! rank, also rank 0, connects to it.
//!
//! The relay knows frames and sockets only. It keeps what is for a rank that has not come yet,
//! tells all when a connection ends without a goodbye, and lives until all ranks left or the
//! process ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Topic;
use super::hub::Hub;
use super::wire::{Body, Frame};
use crate::error::{Error, Result};

/// Keeps strangers on a shared machine out of a world.
pub(super) type Token = [u8; 16];

const MAGIC: &[u8; 8] = b"symmrdv2";
const HELLO: usize = MAGIC.len() + size_of::<Token>() + 8;

/// Between two attempts to connect: ranks start at different times.
const RETRY: Duration = Duration::from_millis(15);
/// Longest time that rank 0's goodbye waits for what it posted last to be relayed.
const FAREWELL: Duration = Duration::from_secs(1);

/// The relay's answers to a hello.
const WELCOME: u8 = 0;
const WRONG_TOKEN: u8 = 1;
const WRONG_RANKS: u8 = 2;
const RANK_TAKEN: u8 = 3;

/// `$SYMM_TOKEN`, or what follows from the port.
pub(super) fn token(port: u16) -> Token {
    let secret = std::env::var_os("SYMM_TOKEN").map_or_else(
        || format!("symm-core world at port {port}").into_bytes(),
        |text| text.into_encoded_bytes(),
    );
    // FNV-1a. Not a seal: the token travels in the clear, and who can read this host's loopback has
    // more than this.
    let hash = secret.iter().fold(
        0x6C62_272E_07BB_0142_62B8_2175_6295_C58D_u128,
        |hash, &byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B)
        },
    );
    hash.to_le_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process's connection to the relay.
#[derive(Debug)]
pub(super) struct Link {
    stream: Mutex<TcpStream>,
    /// On rank 0: the relay, and what closes when this rank's connection has been read to its end.
    relay: Option<(Arc<Relay>, Mutex<Receiver<()>>)>,
}

/// Connects this process's hub with those of its peers; returns as soon as the relay has accepted
/// the rank.
pub(super) fn join(
    hub: &Arc<Hub>,
    token: Token,
    rank: usize,
    host: &str,
    port: u16,
    deadline: Duration,
) -> Result<Link> {
    let refuse = |why: String| Error::Rendezvous {
        rank,
        why: why.into(),
    };
    let place = format!("{host}:{port}");
    let mut addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| refuse(format!("{place} is no address: {e}")))?;
    let address = addresses
        .next()
        .ok_or_else(|| refuse(format!("{place} names no address")))?;
    let relay = match rank {
        0 => Some(
            Relay::start(hub.ranks(), token, address, deadline).map_err(|e| {
                refuse(format!(
                    "cannot listen at {place}: {e}; is that an address of this host, and the port free? (SYMM_RENDEZVOUS, or MASTER_ADDR and MASTER_PORT)"
                ))
            })?,
        ),
        _ => None,
    };
    let connected = enter(hub.ranks(), token, rank, address, deadline).and_then(|stream| {
        let ended = spawn_reader(hub, rank, &stream)
            .map_err(|e| format!("cannot start the thread that listens: {e}"))?;
        Ok((stream, ended))
    });
    match connected {
        Ok((stream, ended)) => Ok(Link {
            stream: Mutex::new(stream),
            relay: relay.map(|relay| (relay, Mutex::new(ended))),
        }),
        Err(why) => {
            if let Some(relay) = relay {
                relay.close();
            }
            Err(refuse(format!("{place}: {why}")))
        }
    }
}

/// Starts the thread that hears the relay; what it returns is disconnected when the thread ends.
fn spawn_reader(hub: &Arc<Hub>, rank: usize, stream: &TcpStream) -> io::Result<Receiver<()>> {
    let (alive, ended) = sync_channel(0);
    let (hub, stream) = (Arc::clone(hub), stream.try_clone()?);
    thread::Builder::new()
        .name(format!("symm-meet-{rank}"))
        .spawn(move || {
            let _alive = alive;
            listen(&hub, stream);
        })?;
    Ok(ended)
}

/// Connects and says who this is, until the relay answers or the deadline ends.
fn enter(
    ranks: usize,
    token: Token,
    rank: usize,
    address: SocketAddr,
    deadline: Duration,
) -> Result<TcpStream, String> {
    let start = Instant::now();
    let mut problem = String::from("nobody listened");
    loop {
        let Some(left) = deadline
            .checked_sub(start.elapsed())
            .filter(|left| !left.is_zero())
        else {
            return Err(format!(
                "no answer in {deadline:?} ({problem}); did rank 0 start, and is the port its own?"
            ));
        };
        match attempt(ranks, token, rank, address, left) {
            Ok((stream, WELCOME)) => return Ok(stream),
            Ok((_, WRONG_TOKEN)) => {
                return Err(
                    "another world meets there: its token differs (SYMM_TOKEN, MASTER_PORT)".into(),
                );
            }
            Ok((_, WRONG_RANKS)) => {
                return Err(format!(
                    "rank 0 has another WORLD_SIZE than the {ranks} given here, or a RANK is too large"
                ));
            }
            Ok((_, RANK_TAKEN)) => {
                return Err(format!(
                    "another process is rank {rank} already: every process needs a RANK of its own"
                ));
            }
            Ok((_, other)) => {
                return Err(format!(
                    "what listens there is no rendezvous of this version (answer {other})"
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(error.to_string());
            }
            // Not started yet, or an earlier world's listener that is about to close.
            Err(error) => problem = error.to_string(),
        }
        thread::sleep(RETRY.min(left));
    }
}

/// One attempt; the answer is one of the codes.
fn attempt(
    ranks: usize,
    token: Token,
    rank: usize,
    address: SocketAddr,
    left: Duration,
) -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect_timeout(&address, left)?;
    if stream.local_addr()? == address {
        // A connect to a free port of the ephemeral range can meet itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(left))?;
    let mut hello = Vec::with_capacity(HELLO);
    hello.extend(MAGIC);
    hello.extend(token);
    hello.extend((rank as u32).to_le_bytes());
    hello.extend((ranks as u32).to_le_bytes());
    stream.write_all(&hello)?;
    let mut answer = [0; MAGIC.len() + 1];
    stream.read_exact(&mut answer).map_err(no_answer)?;
    if !answer.starts_with(MAGIC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "something else listens there: choose another MASTER_PORT",
        ));
    }
    stream.set_read_timeout(None)?;
    // A stopped relay must not hold a rank for ever.
    stream.set_write_timeout(Some(left))?;
    Ok((stream, answer[MAGIC.len()]))
}

/// Why there is no answer to a hello: the system's words would not say that somebody is there.
fn no_answer(error: io::Error) -> io::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
    let what = match error.kind() {
        WouldBlock | TimedOut => "something accepted the connection and said nothing",
        UnexpectedEof | ConnectionReset | ConnectionAborted => {
            "something accepted the connection and closed it without an answer"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), what)
}

/// Hands what arrives to the hub, until the connection ends.
fn listen(hub: &Hub, mut stream: TcpStream) {
    let mut hear = || -> io::Result<Option<()>> {
        let Some(frame) = Frame::read(&mut stream)? else {
            return Ok(None);
        };
        match frame.open(hub.ranks())? {
            // What is wrong with a post is told to all who collect.
            (
                from,
                Body::Post {
                    epoch,
                    topic,
                    members,
                    value,
                },
            ) => drop(hub.post(from, epoch, topic, &members, value.to_vec())),
            (from, Body::Fail { epoch, cause }) => drop(hub.fail(from, epoch, cause)),
            (from, Body::Left) => hub.leave(from),
            (from, Body::Died) => hub.die(
                from,
                "its process died, or dropped its connection without a goodbye",
            ),
        }
        Ok(Some(()))
    };
    loop {
        match hear() {
            Ok(Some(())) => {}
            Ok(None) => return hub.cut("its connection closed without a goodbye"),
            Err(error) => return hub.cut(&format!("its connection broke: {error}")),
        }
    }
}

impl Link {
    fn send(&self, frame: &Frame) -> io::Result<()> {
        lock(&self.stream).write_all(frame.bytes())
    }

    pub(super) fn post(
        &self,
        from: usize,
        epoch: u64,
        topic: Topic,
        members: &Arc<[usize]>,
        value: &[u8],
    ) -> Result<()> {
        let frame = Frame::new(
            from,
            &Body::Post {
                epoch,
                topic,
                members: Arc::clone(members),
                value,
            },
        );
        self.send(&frame).map_err(|error| Error::PeerFailed {
            rank: 0,
            cause: format!("its connection broke: {error}").into(),
        })
    }

    pub(super) fn fail(&self, from: usize, epoch: u64, cause: &str) {
        // Whoever cannot be told sees the connection break.
        let _ = self.send(&Frame::new(from, &Body::Fail { epoch, cause }));
    }

    /// Ends the connection without a goodbye, as the end of the process does.
    #[cfg(test)]
    pub(super) fn sever(&self) {
        lock(&self.stream).shutdown(Shutdown::Both).expect("open");
    }

    /// Says goodbye.
    pub(super) fn leave(&self, from: usize) {
        let _ = self.send(&Frame::new(from, &Body::Left));
        if let Some((relay, ended)) = &self.relay {
            relay.close();
            // This process may be about to exit, and the relay with it: let it pass on what was
            // posted last.
            let _: Result<(), RecvTimeoutError> = lock(ended).recv_timeout(FAREWELL);
        }
    }
}

/// Passes frames on between the ranks' connections. Lives in rank 0's process.
#[derive(Debug)]
struct Relay {
    token: Token,
    address: SocketAddr,
    exits: Box<[Mutex<Exit>]>,
    /// The listener closes: all have come, or rank 0 gave up.
    closed: AtomicBool,
    deadline: Duration,
}

/// The way to one rank.
#[derive(Debug)]
enum Exit {
    /// It has not come yet; what waits for it.
    Absent(Vec<Frame>),
    Here(TcpStream),
    Gone,
}

impl Relay {
    fn start(
        ranks: usize,
        token: Token,
        address: SocketAddr,
        deadline: Duration,
    ) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(address)?;
        let exits = (0..ranks)
            .map(|_| Mutex::new(Exit::Absent(Vec::new())))
            .collect();
        let relay = Arc::new(Self {
            token,
            address,
            exits,
            closed: AtomicBool::new(false),
            deadline,
        });
        let accepting = Arc::clone(&relay);
        thread::Builder::new()
            .name("symm-relay".into())
            .spawn(move || accepting.accept(&listener))?;
        Ok(relay)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.closed.load(Ordering::Acquire) {
            let Ok((stream, _)) = listener.accept() else {
                // Out of file descriptors, most likely; those who wait try again.
                thread::sleep(RETRY);
                continue;
            };
            let relay = Arc::clone(self);
            // If no thread can be had, the peer sees its connection close, and tries again.
            let _ = thread::Builder::new()
                .name("symm-relay-peer".into())
                .spawn(move || relay.serve(stream));
        }
    }

    /// Closes the listener.
    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            // Only a connection wakes a thread in accept.
            let _ = TcpStream::connect_timeout(&self.address, FAREWELL);
        }
    }

    /// One connection, from its hello to its end.
    fn serve(&self, mut stream: TcpStream) {
        let Ok(Some(rank)) = self.welcome(&mut stream) else {
            return;
        };
        let mut relay = || -> io::Result<bool> {
            let frame = Frame::read(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match frame.open(self.exits.len())? {
                (from, _) if from != rank => return Err(io::ErrorKind::InvalidData.into()),
                (_, Body::Post { members, .. }) => {
                    self.tell(members.iter().copied(), rank, &frame);
                }
                (_, Body::Fail { .. }) => self.tell_others(rank, &frame),
                (_, Body::Left | Body::Died) => {
                    self.tell_others(rank, &frame);
                    *lock(&self.exits[rank]) = Exit::Gone;
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let said_goodbye = loop {
            match relay() {
                Ok(false) => {}
                Ok(true) => break true,
                Err(_) => break false,
            }
        };
        if !said_goodbye {
            *lock(&self.exits[rank]) = Exit::Gone;
            self.tell_others(rank, &Frame::new(rank, &Body::Died));
        }
        // Its own end reads this as the answer to its goodbye.
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Reads a hello and answers it; `None` for one that is not let in.
    fn welcome(&self, stream: &mut TcpStream) -> io::Result<Option<usize>> {
        let mut hello = [0; HELLO];
        stream.set_read_timeout(Some(self.deadline))?;
        stream.read_exact(&mut hello)?;
        let (magic, rest) = hello.split_at(MAGIC.len());
        let (token, rest) = rest.split_at(size_of::<Token>());
        if magic != MAGIC || self.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let number = |at: usize| {
            rest[at..at + 4]
                .iter()
                .rev()
                .fold(0, |all, &byte| all << 8 | usize::from(byte))
        };
        let (rank, ranks) = (number(0), number(4));
        let answer = |stream: &mut TcpStream, code: u8| {
            let mut bytes = MAGIC.to_vec();
            bytes.push(code);
            stream.write_all(&bytes)
        };
        if token != self.token {
            return answer(stream, WRONG_TOKEN).map(|()| None);
        }
        if ranks != self.exits.len() || rank >= ranks {
            return answer(stream, WRONG_RANKS).map(|()| None);
        }
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(self.deadline))?;
        stream.set_nodelay(true)?;
        {
            let mut exit = lock(&self.exits[rank]);
            let Exit::Absent(waiting) = &*exit else {
                return answer(stream, RANK_TAKEN).map(|()| None);
            };
            answer(stream, WELCOME)?;
            for frame in waiting {
                stream.write_all(frame.bytes())?;
            }
            *exit = Exit::Here(stream.try_clone()?);
        }
        if self
            .exits
            .iter()
            .all(|exit| !matches!(&*lock(exit), Exit::Absent(_)))
        {
            self.close();
        }
        Ok(Some(rank))
    }

    fn tell_others(&self, rank: usize, frame: &Frame) {
        self.tell(0..self.exits.len(), rank, frame);
    }

    /// Rank 0 is told last: its process may exit of what it hears, and the relay with it.
    fn tell(&self, members: impl Iterator<Item = usize>, from: usize, frame: &Frame) {
        let (zero, others): (Vec<_>, Vec<_>) = members.partition(|&to| to == 0);
        let all = others.into_iter().chain(zero);
        all.filter(|&to| to != from)
            .for_each(|to| self.pass(to, frame));
    }

    /// Sends a frame on. A peer that was stopped, with full buffers, holds up those who send to it
    /// until their deadline.
    fn pass(&self, to: usize, frame: &Frame) {
        let mut exit = lock(&self.exits[to]);
        match &mut *exit {
            Exit::Absent(waiting) => waiting.push(frame.clone()),
            Exit::Here(stream) => {
                // Its own connection's thread tells the others when it broke.
                if stream.write_all(frame.bytes()).is_err() {
                    let _ = stream.shutdown(Shutdown::Both);
                    *exit = Exit::Gone;
                }
            }
            Exit::Gone => {}
        }
    }
}
