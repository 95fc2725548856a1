//! What an exchange costs where there are many origins, nearly all of them complete everywhere.

use std::time::Duration;

use super::net::{Net, content};
use crate::catalog::Faults;
use crate::catalog::storage::Storage;
use crate::time::UnixMillis;
use crate::version::{Context, Dot, Origin, Version};

/// The first version of an origin of its own, under a name of its own.
fn alone(number: u64, sequence: u64) -> Version {
    let node = format!("node-{}", number % 100).parse().unwrap();
    let origin = Origin { node, generation: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
    Version {
        name: format!("folder/name-{number}-{sequence}").parse().unwrap(),
        dot: Dot { origin, sequence },
        context: Context::default(),
        count: 1,
        content: Some(content(number)),
        created_at: UnixMillis(1_700_000_000_000),
    }
}

fn merge(net: &mut Net, node: usize, versions: impl IntoIterator<Item = Version>) {
    for version in versions {
        net.step(node, |catalog, storage, _, _| catalog.merge(storage, &version).map(drop));
    }
}

/// Runs until both have seen the same; returns the bytes and requests that it took.
fn cost(net: &mut Net) -> (usize, u64) {
    let (bytes, sent) = (net.bytes, net.sent);
    let digest = |net: &Net, node: usize| net.nodes[node].catalog.as_ref().unwrap().seen_digest();
    for _ in 0..400 {
        if digest(net, 0) == digest(net, 1) {
            return (net.bytes - bytes, net.sent - sent);
        }
        net.run_for(Duration::from_millis(50));
    }
    panic!("they still differ: {}", net.longest);
}

/// Two nodes that know the same `count` origins and are quiet.
fn pair(count: u64) -> Net {
    let mut net = Net::new(count, 2, 2, Faults::default());
    (0..2).for_each(|node| merge(&mut net, node, (0..count).map(|number| alone(number, 1))));
    net.run_for(Duration::from_secs(30));
    net
}

#[test]
fn thousands_of_origins_exchange_within_the_limits_and_in_proportion_to_what_differs() {
    const ORIGINS: u64 = 10_000;
    let mut net = pair(ORIGINS);
    let (before, longest) = (net.bytes, net.longest);
    net.run_for(Duration::from_secs(60));
    assert_eq!(net.bytes, before, "equal catalogs say nothing but the digest in their datagrams");
    println!("{ORIGINS} origins, none differs: 0 bytes beyond the digest in datagrams");
    for (differ, most) in [(1, 2_500), (100, 80_000), (1_000, 700_000)] {
        let step = ORIGINS / differ;
        merge(&mut net, 0, (0..differ).map(|number| alone(number * step, differ + 2)));
        let records: usize =
            (0..differ).map(|n| minicbor::to_vec(alone(n * step, differ + 2)).unwrap().len()).sum();
        let (bytes, requests) = cost(&mut net);
        println!(
            "{ORIGINS} origins, {differ} differ: {bytes} bytes in {requests} requests and their answers, \
             {records} of them the versions themselves"
        );
        assert!(bytes - records < most, "{bytes} bytes for {differ} differences");
        net.run_for(Duration::from_secs(5));
    }
    assert!(net.longest < 512 << 10, "one message has {} bytes", net.longest);
    assert!(longest < 512 << 10);
}

#[test]
fn a_blank_node_learns_thousands_of_origins_in_messages_of_bounded_length() {
    const ORIGINS: u64 = 20_000;
    let mut net = Net::new(1, 2, 2, Faults::default());
    merge(&mut net, 0, (0..ORIGINS).map(|number| alone(number, 1)));
    let (bytes, requests) = cost(&mut net);
    println!("{ORIGINS} unknown origins: {bytes} bytes in {requests} requests, longest {}", net.longest);
    assert!(net.longest <= 512 << 10, "one message has {} bytes", net.longest);
    assert_eq!(net.nodes[1].storage.all_survivors().count() as u64, ORIGINS);
    assert_eq!(net.nodes[1].storage.seen().unwrap(), net.nodes[0].storage.seen().unwrap());
}

/// While one dot is open, all that follows it lies above a gap; that must not cost anything each.
#[test]
fn a_dot_left_open_for_long_costs_the_exchange_nothing() {
    let mut net = Net::new(2, 2, 2, Faults::default());
    merge(&mut net, 0, (2..5_000).map(|sequence| alone(7, sequence)));
    cost(&mut net);
    merge(&mut net, 0, [alone(7, 5_000)]);
    let (bytes, _) = cost(&mut net);
    assert!(bytes < 1_000, "{bytes} bytes for one version");
}
