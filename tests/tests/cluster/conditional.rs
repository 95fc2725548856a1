//! Conditional writes: of two writers from the same version at most one succeeds.

use anyhow::{Result, ensure};
use kepler_tests::cluster::{Cluster, scaled};
use reqwest::StatusCode;

#[tokio::test]
async fn two_writers_with_the_same_token_never_both_succeed() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let races = scaled(500);
    let (mut won, mut nobody) = (0, 0);
    for race in 0..races {
        let name = format!("raced/{}", race % 10);
        let base = match cluster.nodes[0].try_get(&name).await? {
            response if response.status() == StatusCode::OK => Some(response.headers()["etag"].clone()),
            _ => None,
        };
        let write = async |node: usize| -> Result<StatusCode> {
            let node = &cluster.nodes[node];
            let request = node.client().put(node.file_url(&name)).body(format!("{race} by {}", node.id));
            let request = match &base {
                Some(token) => request.header("If-Match", token),
                None => request.header("If-None-Match", "*"),
            };
            Ok(request.send().await?.status())
        };
        let (first, second) = futures::join!(write(race % 3), write((race + 1) % 3));
        let results = [first?, second?];
        let successes = results.iter().filter(|s| **s == StatusCode::OK).count();
        ensure!(successes <= 1, "race {race}: both succeeded");
        for status in results {
            let expected = matches!(
                status,
                StatusCode::OK | StatusCode::PRECONDITION_FAILED | StatusCode::SERVICE_UNAVAILABLE
            );
            ensure!(expected, "race {race}: {status}");
        }
        won += successes;
        nobody += usize::from(successes == 0);
    }
    println!("conditional writes: {races} races, {won} with one winner, {nobody} with none, 0 with two");
    ensure!(won > races / 2, "only {won} of {races} races had a winner");
    Ok(())
}
