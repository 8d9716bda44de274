//! Numbered places for things that come and go; a number is used again once its thing is gone.

/// Things at places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places<T> {
    things: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Places<T> {
    pub(super) const fn new() -> Self {
        Self { things: Vec::new(), free: Vec::new() }
    }

    pub(super) fn put(&mut self, thing: T) -> u32 {
        if let Some(place) = self.free.pop()
            && let Some(empty) = self.things.get_mut(place as usize)
        {
            *empty = Some(thing);
            return place;
        }
        self.things.push(Some(thing));
        u32::try_from(self.things.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.things.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.things.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let thing = self.things.get_mut(place as usize)?.take();
        self.free.extend(thing.is_some().then_some(place));
        thing
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.things).filter_map(|(place, thing)| Some((place, thing.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.things).filter_map(|(place, thing)| Some((place, thing.as_mut()?)))
    }
}
