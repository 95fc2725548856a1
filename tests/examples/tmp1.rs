use kepler_tests::sim::node::{Node, Setup};
use kepler_tests::sim::run::{Options, Plan, run, shrink};
fn main(){ let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap(); let plan=Plan::new(Options::new(seed)); 
 let mut small = plan.clone(); small.faults.retain(|f| matches!(f.1, kepler_tests::sim::faults::Fault::EmptyDisk{..})); small.questions.truncate(17);
 let r=run::<Node>(&small, Setup::default()); eprintln!("{:#?}", r.violations); let _=shrink::<Node>; }
