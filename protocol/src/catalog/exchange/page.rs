//! What this node answers in an exchange: pages of what the asker lacks.
//!
//! A name of which the asker lacks anything goes whole, with all its stubs: what the asker holds of it
//! may have come here, and been superseded, since the two compared what they have seen.

use super::super::message::{Cursor, MAX_CHECKED, NamePart, Page, Pull, Response, encoded_len};
use super::super::seen::Seen;
use super::super::storage::{Result, published};
use super::super::{Catalog, Step};
use super::PAGE_NAMES;
use crate::name::Name;
use crate::version::Dot;

/// What a page carries of names and closed dots, in encoded bytes.
const PAGE_BYTES: usize = 384 << 10;

/// How many closed dots one page carries.
const PAGE_CLOSED: usize = 2000;

/// What the asker of a page has seen, as far as it said so.
struct Asker {
    /// Of the origins that it wants, its own word; of the others, all that is seen here.
    theirs: Seen,
    /// The origins that it wants.
    wanted: Seen,
}

impl Asker {
    /// Whether it may lack a version. What came here since it compared is of an origin that it does
    /// not want; it goes along if its name does, so that the asker knows all that survives. Not in a
    /// later part of a name, for then it would go along each time.
    fn may_lack(&self, dot: &Dot, again: bool) -> bool {
        match self.wanted.origin(&dot.origin) {
            Some(set) => !set.contains(dot.sequence),
            None => !again,
        }
    }
}

impl Catalog {
    /// Which of a peer's survivors are seen here and do not survive.
    pub(in super::super) fn check(&mut self, step: &mut Step<'_>, dots: &[Dot]) -> Result<Response> {
        if !step.electorate.is_intact() {
            let why = step.electorate.standing().err();
            return Ok(Response::NotReady(why.unwrap_or_default()));
        }
        let mut superseded = Vec::new();
        for dot in dots.iter().take(MAX_CHECKED) {
            let known = self.knowledge.contains(dot) || step.storage.stub(dot)?.is_some();
            if known && step.storage.survivor(dot)?.is_none() {
                superseded.push(*dot);
            }
        }
        Ok(Response::Superseded(superseded))
    }

    /// The page of names and closed dots after `pull.after` that the asker wants.
    pub(in super::super) fn page(&self, step: &Step<'_>, pull: Pull) -> Result<Page> {
        let mut page = Page {
            database: self.own_database(step),
            closed: Vec::new(),
            names: Vec::new(),
            next: None,
            ready: step.electorate.is_intact() || self.config.faults.answer_before_ready,
        };
        let mut theirs = Seen::clone(self.knowledge.seen());
        pull.wanted.iter().for_each(|(origin, set)| theirs.set_origin(*origin, set.clone()));
        let asker = Asker { theirs, wanted: pull.wanted };
        self.fill(step, &mut page, &asker, pull.after)?;
        Ok(page)
    }

    fn fill(&self, step: &Step<'_>, page: &mut Page, asker: &Asker, after: Option<Cursor>) -> Result<()> {
        let mut room = PAGE_BYTES;
        let mut last_name = None;
        match after {
            None | Some(Cursor::Closed(_)) => {
                let after = match &after {
                    Some(Cursor::Closed(dot)) => Some(dot),
                    _ => None,
                };
                page.closed = step.storage.closed_unseen_by(&asker.theirs, after, PAGE_CLOSED)?;
                if let Some(dot) = page.closed.last().filter(|_| page.closed.len() == PAGE_CLOSED) {
                    page.next = Some(Cursor::Closed(*dot));
                    return Ok(());
                }
            }
            Some(Cursor::Name(name)) => last_name = Some(name),
            Some(Cursor::Within(name, stub)) => {
                let part = self.part(step, asker, &name, Some(stub.as_ref()), &mut room)?;
                if !part.last {
                    page.next = Some(within(&part, stub));
                    page.names.push(part);
                    return Ok(());
                }
                page.names.push(part);
                last_name = Some(name);
            }
        }
        let names = step.storage.names_unseen_by(&asker.theirs, last_name.as_ref(), PAGE_NAMES)?;
        let is_full = names.len() == PAGE_NAMES;
        for name in names {
            let before = room;
            let part = self.part(step, asker, &name, None, &mut room)?;
            if !part.last && before < PAGE_BYTES / 2 {
                // It begins the next page, where it may fit as a whole.
                page.next = last_name.map(Cursor::Name);
                return Ok(());
            }
            if !part.last {
                page.next = Some(within(&part, None));
                page.names.push(part);
                return Ok(());
            }
            last_name = Some(name);
            if !(part.holds.is_empty() && part.stubs.is_empty()) {
                page.names.push(part);
            }
        }
        if is_full {
            page.next = last_name.map(Cursor::Name);
        }
        Ok(())
    }

    /// What the asker may lack of a name. `went_on`: this is not the first part of it, and goes on
    /// after this stub.
    fn part(
        &self,
        step: &Step<'_>,
        asker: &Asker,
        name: &Name,
        went_on: Option<Option<&Dot>>,
        room: &mut usize,
    ) -> Result<NamePart> {
        let ours = published(&*step.storage, name)?;
        let holds: Vec<Dot> = ours.iter().map(|v| v.dot).collect();
        let mut part =
            NamePart { name: name.clone(), holds, versions: Vec::new(), stubs: Vec::new(), last: true };
        *room = room.saturating_sub(encoded_len(&part));
        for version in ours.into_iter().filter(|v| asker.may_lack(&v.dot, went_on.is_some())) {
            let bytes = encoded_len(&version);
            // One version always goes, so that a page always moves on.
            if bytes > *room && !(part.versions.is_empty() && *room > PAGE_BYTES / 2) {
                part.last = false;
                return Ok(part);
            }
            *room = room.saturating_sub(bytes);
            part.versions.push(version);
        }
        for stub in step.storage.stubs(name)? {
            if went_on.flatten().is_some_and(|after| stub.dot <= *after) {
                continue;
            }
            let bytes = encoded_len(&stub);
            if bytes > *room {
                part.last = false;
                return Ok(part);
            }
            *room -= bytes;
            part.stubs.push(stub);
        }
        Ok(part)
    }
}

/// Where a name that did not fit goes on.
fn within(part: &NamePart, before: Option<Dot>) -> Cursor {
    Cursor::Within(part.name.clone(), part.stubs.last().map(|stub| stub.dot).or(before))
}
