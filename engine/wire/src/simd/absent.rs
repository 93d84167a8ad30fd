//! What stands here on other processors: types of which none exist.

use super::{Backend, QUAD_LEN};

#[derive(Clone)]
pub(crate) enum GmacSiv {}

impl GmacSiv {
    pub fn new(_: &[u8; 32], _: &[u8; 32], _: Backend) -> Option<GmacSiv> {
        None
    }

    pub fn seal(&self, _: [u8; 8], _: &[u8], _: &mut [u8], _: &[u8]) -> [u8; 16] {
        match *self {}
    }

    pub fn open(&self, _: &[u8; 16], _: &[u8], _: &mut [u8]) -> bool {
        match *self {}
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Salsa2012 {}

impl Salsa2012 {
    pub fn new(_: Backend) -> Option<Salsa2012> {
        None
    }

    pub fn write(self, _: &[u32; 8], _: &[u32; 2], _: u32, _: &mut [[u8; QUAD_LEN]]) {
        match self {}
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Poly1305 {}

impl Poly1305 {
    pub fn new(_: Backend) -> Option<Poly1305> {
        None
    }

    pub fn tag(self, _: &[u8; 32], _: &[u8]) -> [u8; 16] {
        match self {}
    }
}
