//! The frames that processes exchange: a length, the rank that it is from, a kind, and what belongs
//! to the kind. Little endian.

use std::io::{self, Read};
use std::sync::Arc;

use super::Topic;

const LENGTH: usize = 8;
/// Longer is no frame of ours.
const LONGEST: u64 = 1 << 40;

const POST: u8 = 1;
const FAIL: u8 = 2;
const LEFT: u8 = 3;
const DIED: u8 = 4;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Body<'a> {
    /// A value for a meeting of an epoch.
    Post {
        epoch: u64,
        topic: Topic,
        members: Arc<[usize]>,
        value: &'a [u8],
    },
    /// The rank failed in an epoch.
    Fail { epoch: u64, cause: &'a str },
    /// The rank said goodbye.
    Left,
    /// The rank's connection ended without a goodbye.
    Died,
}

/// A frame as it travels; relayed without being copied apart.
#[derive(Clone, Debug)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) fn new(from: usize, body: &Body<'_>) -> Self {
        let mut bytes = vec![0; LENGTH];
        bytes.extend((from as u32).to_le_bytes());
        match body {
            Body::Post {
                epoch,
                topic,
                members,
                value,
            } => {
                bytes.reserve(40 + 4 * members.len() + value.len());
                bytes.push(POST);
                bytes.extend(epoch.to_le_bytes());
                bytes.extend(topic.channel.to_le_bytes());
                bytes.extend(topic.step.to_le_bytes());
                bytes.extend((members.len() as u32).to_le_bytes());
                members
                    .iter()
                    .for_each(|&member| bytes.extend((member as u32).to_le_bytes()));
                bytes.extend(*value);
            }
            Body::Fail { epoch, cause } => {
                bytes.push(FAIL);
                bytes.extend(epoch.to_le_bytes());
                bytes.extend(cause.as_bytes());
            }
            Body::Left => bytes.push(LEFT),
            Body::Died => bytes.push(DIED),
        }
        let length = (bytes.len() - LENGTH) as u64;
        bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
        Self(bytes)
    }

    /// The next frame; `None` at the end of the stream.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; LENGTH];
        if let Err(error) = stream.read_exact(&mut length) {
            return if error.kind() == io::ErrorKind::UnexpectedEof {
                Ok(None)
            } else {
                Err(error)
            };
        }
        let expected = u64::from_le_bytes(length);
        if expected > LONGEST {
            return Err(garbled());
        }
        // Grows with what arrives, so that a wrong length cannot take all memory.
        let mut bytes = length.to_vec();
        if stream.take(expected).read_to_end(&mut bytes)? as u64 != expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Self(bytes)))
    }

    /// The bytes to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Who says what.
    pub(super) fn open(&self, ranks: usize) -> io::Result<(usize, Body<'_>)> {
        let mut rest = &self.0[LENGTH..];
        let from = word(&mut rest)? as usize;
        let body = match byte(&mut rest)? {
            POST => {
                let epoch = long(&mut rest)?;
                let topic = Topic {
                    channel: long(&mut rest)?,
                    step: long(&mut rest)?,
                };
                let count = word(&mut rest)? as usize;
                if count > ranks {
                    return Err(garbled());
                }
                let members = (0..count)
                    .map(|_| word(&mut rest).map(|member| member as usize))
                    .collect::<io::Result<Arc<[_]>>>()?;
                if members.iter().any(|&member| member >= ranks) {
                    return Err(garbled());
                }
                Body::Post {
                    epoch,
                    topic,
                    members,
                    value: rest,
                }
            }
            FAIL => Body::Fail {
                epoch: long(&mut rest)?,
                cause: std::str::from_utf8(rest).map_err(|_| garbled())?,
            },
            LEFT => Body::Left,
            DIED => Body::Died,
            _ => return Err(garbled()),
        };
        if from < ranks {
            Ok((from, body))
        } else {
            Err(garbled())
        }
    }
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a frame of this protocol")
}

fn array<const N: usize>(rest: &mut &[u8]) -> io::Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(garbled)?;
    *rest = tail;
    Ok(*head)
}

fn byte(rest: &mut &[u8]) -> io::Result<u8> {
    array::<1>(rest).map(|[byte]| byte)
}

fn word(rest: &mut &[u8]) -> io::Result<u32> {
    array(rest).map(u32::from_le_bytes)
}

fn long(rest: &mut &[u8]) -> io::Result<u64> {
    array(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_and_garbage_does_not() {
        let topic = Topic {
            channel: u64::MAX,
            step: 3,
        };
        let post = Body::Post {
            epoch: 5,
            topic,
            members: [2, 0].into(),
            value: b"value",
        };
        let fail = Body::Fail {
            epoch: u64::MAX,
            cause: "cause",
        };
        for body in [post, fail, Body::Left, Body::Died] {
            let sent = Frame::new(2, &body);
            let read = Frame::read(&mut sent.bytes()).expect("whole").expect("one");
            assert_eq!(read.open(3).expect("sound"), (2, body));
            assert!(read.open(2).is_err(), "a rank that does not exist");
            assert!(Frame::read(&mut &sent.bytes()[..sent.bytes().len() - 1]).is_err());
        }
        assert!(Frame::read(&mut &[][..]).expect("the end").is_none());
        assert!(Frame::read(&mut &[0xFF; 64][..]).is_err());
    }
}
