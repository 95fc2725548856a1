//! What was: the last hour of the members, and versions that do not survive.
//!
//! Each node remembers for itself, in memory (`memory`) and in a bounded table; who is asked for all asks the others.
//! What nobody remembers any more, or a member that is silent knew, is missing: it is told for people.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kepler_protocol::api;
use kepler_protocol::name::Name;
use kepler_protocol::recent::{self};
use kepler_protocol::version::{Context, Dot, Version};
use kepler_protocol::wire::operations::{self, Answer, MAX_REPLACED, Question, Replaced, Told};

use super::ReadError;
use super::files::Service;
use super::operations::Operator;

/// The most members asked about the past: it is told for people, and each has an hour to tell.
const MOST_ASKED: usize = 64;

impl Operator {
    /// What was measured and what happened, here or on the members that answer within a few seconds.
    pub(super) async fn recent(&self, all: bool, past: Duration) -> api::Recent {
        let me = self.me();
        let (asked, away) = if all { self.some(MOST_ASKED) } else { ([me].into(), BTreeSet::new()) };
        let millis = u64::try_from(past.as_millis()).unwrap_or(u64::MAX);
        let answers = self.ask(asked, &Question::Recent(millis)).await;
        let (mut events, mut silent, mut measured) = (Vec::new(), away, BTreeMap::new());
        for (node, answer) in answers {
            let Some(Answer::Recent(operations::Recent { samples, events: told })) = answer else {
                silent.insert(node);
                continue;
            };
            events.extend(told.into_iter().filter_map(|Told { at, number, event }| {
                let event = serde_json::from_str(&event).ok()?;
                Some((at, api::PastEvent { node, at: at.to_string(), number, event }))
            }));
            measured.insert(node, samples);
        }
        events.sort_by_key(|(at, event)| (*at, event.node, event.number));
        let cluster = all.then(|| shown(recent::sum(measured.values().map(Vec::as_slice))));
        api::Recent {
            node: me,
            interval_secs: recent::EVERY.as_secs(),
            samples: shown(measured.remove(&me).unwrap_or_default()),
            cluster,
            events: events.into_iter().map(|(_, event)| event).collect(),
            silent: silent.into_iter().collect(),
        }
    }

    /// What members remember of a name, each version once, the last to go first; at most [`MAX_REPLACED`].
    async fn replaced(&self, name: &Name) -> Vec<Replaced> {
        let answers = self.ask(self.some(MOST_ASKED).0, &Question::Replaced(name.clone())).await;
        let mut found: BTreeMap<Dot, Replaced> = BTreeMap::new();
        for answer in answers.into_values() {
            let Some(Answer::Replaced(replaced)) = answer else { continue };
            for one in replaced.into_iter().take(MAX_REPLACED) {
                let known = found.entry(one.dot).or_insert_with(|| one.clone());
                known.gone_at = known.gone_at.min(one.gone_at);
            }
        }
        let mut found: Vec<Replaced> = found.into_values().collect();
        found.sort_by_key(|one| std::cmp::Reverse((one.gone_at, one.created_at, one.dot)));
        found.truncate(MAX_REPLACED);
        found
    }
}

impl Service {
    /// Versions of a name that do not survive, and whether they can still be read.
    pub(super) async fn earlier_versions(&self, name: &Name) -> Result<api::Earlier, ReadError> {
        let survivors = self.store.survivors(name).await.map_err(|e| ReadError::Store(e.into()))?;
        let mut replaced = self.operator.replaced(name).await;
        // A member whose view of the name is ahead remembers what still survives here.
        replaced.retain(|one| survivors.iter().all(|survivor| survivor.version.dot != one.dot));
        let roots: Vec<_> = replaced.iter().map(|one| one.content.root).collect();
        let holders = self.chunks.holders(&roots).await.map_err(|e| ReadError::Store(e.into()))?;
        let versions = replaced.into_iter().zip(holders).map(|(one, holders)| api::EarlierVersion {
            version: one.dot.to_string(),
            cid: one.content.root,
            size: one.content.size,
            chunks: one.content.chunks,
            content_type: one.content.content_type,
            created_at: one.created_at.to_string(),
            gone_at: one.gone_at.to_string(),
            held: !holders.is_empty(),
        });
        Ok(api::Earlier { name: name.clone(), versions: versions.collect() })
    }

    /// A version that does not survive, by what members remember of it.
    pub(super) async fn remembered(&self, name: &Name, dot: Dot) -> Option<Version> {
        let found = self.operator.replaced(name).await.into_iter().find(|one| one.dot == dot)?;
        Some(Version {
            name: name.clone(),
            dot,
            context: Context::default(),
            count: 0,
            content: Some(found.content),
            created_at: found.created_at,
        })
    }
}

fn shown(samples: Vec<recent::Sample>) -> Vec<api::Sample> {
    samples.into_iter().map(api::Sample::from).collect()
}
