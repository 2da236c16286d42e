//! Who owns a session, as this worker asks the store: claims, confirmations, strikes and releases,
//! each many at a time. Knows no channels and no apps.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use single_state_proto::id::{Epoch, Generation, SessionId};
use single_state_store::{
    Claim, Claimed, MAX_BATCH, Manners, Owner, SharedStore, Standing, StoreError,
};

use crate::batch::Batch;

/// Claims of one statement. With what a claim brings at most, 64 MiB.
const CLAIMS: usize = 64;

/// A session whose ownership was confirmed within this time is ours (R5).
pub(crate) const CONFIRMED_FOR: Duration = Duration::from_secs(2);

type Answer<A> = Result<A, StoreError>;

/// This worker's claims.
pub(crate) struct Ownership {
    owner: Rc<Cell<Owner>>,
    claims: Rc<Batch<(Claim, Manners), Answer<Claimed>>>,
    confirmations: Rc<Batch<(SessionId, Epoch), Answer<Standing>>>,
    strikes: Rc<Batch<(SessionId, Epoch), Answer<()>>>,
    releases: Rc<Batch<(SessionId, Epoch), Answer<()>>>,
}

impl Ownership {
    pub(crate) fn new(store: SharedStore, owner: Owner) -> Self {
        let owner = Rc::new(Cell::new(owner));
        let (claiming, confirming) = (store.clone(), store.clone());
        let (striking, releasing) = (store.clone(), store);
        let claimant = owner.clone();
        Self {
            claims: Batch::new(CLAIMS, move |questions| {
                let (store, owner) = (claiming.clone(), claimant.get());
                Box::pin(async move { claim(&store, owner, questions).await })
            }),
            confirmations: Batch::new(MAX_BATCH, move |questions| {
                let store = confirming.clone();
                Box::pin(async move { confirm(&store, questions).await })
            }),
            strikes: Batch::new(MAX_BATCH, move |questions: Vec<_>| {
                let store = striking.clone();
                Box::pin(async move {
                    let done = store.strike(&questions).await;
                    questions.iter().map(|_| done.clone()).collect()
                })
            }),
            releases: Batch::new(MAX_BATCH, move |questions: Vec<_>| {
                let store = releasing.clone();
                Box::pin(async move {
                    let done = store.release(&questions, false).await;
                    questions.iter().map(|_| done.clone()).collect()
                })
            }),
            owner,
        }
    }

    /// Who this worker is.
    pub(crate) fn owner(&self) -> Owner {
        self.owner.get()
    }

    /// A newer topology is known.
    pub(crate) fn set_generation(&self, generation: Generation) {
        let mut owner = self.owner.get();
        owner.generation = owner.generation.max(generation);
        self.owner.set(owner);
    }

    /// Claims a session of which no other claim is under way.
    pub(crate) async fn claim(&self, claim: Claim, manners: Manners) -> Answer<Claimed> {
        flatten(self.claims.ask((claim, manners)).await)
    }

    /// Whether `epoch` still owns the session.
    pub(crate) async fn confirm(&self, session: &SessionId, epoch: Epoch) -> Answer<Standing> {
        flatten(self.confirmations.ask((session.clone(), epoch)).await)
    }

    /// Counts a strike.
    pub(crate) async fn strike(&self, session: &SessionId, epoch: Epoch) -> Answer<()> {
        flatten(self.strikes.ask((session.clone(), epoch)).await)
    }

    /// Gives the session up, and forgives it its strikes.
    pub(crate) async fn release(&self, session: &SessionId, epoch: Epoch) -> Answer<()> {
        flatten(self.releases.ask((session.clone(), epoch)).await)
    }
}

fn flatten<A>(answer: Option<Answer<A>>) -> Answer<A> {
    answer.unwrap_or_else(|| Err(StoreError::Away("the store did not answer".to_owned())))
}

/// One statement for all that share their manners.
async fn claim(
    store: &SharedStore,
    owner: Owner,
    questions: Vec<(Claim, Manners)>,
) -> Vec<Answer<Claimed>> {
    let mut groups: Vec<(Manners, Vec<usize>)> = Vec::new();
    for (at, (_, manners)) in questions.iter().enumerate() {
        match groups.iter_mut().find(|(group, _)| group == manners) {
            Some((_, members)) => members.push(at),
            None => groups.push((manners.clone(), vec![at])),
        }
    }
    let mut answers: Vec<_> = questions.iter().map(|_| flatten(None)).collect();
    for (manners, members) in groups {
        let claims: Vec<_> = members.iter().map(|at| questions[*at].0.clone()).collect();
        match store.claim(&owner, &manners, &claims).await {
            Ok(claimed) => {
                for (at, claimed) in members.into_iter().zip(claimed) {
                    answers[at] = Ok(claimed);
                }
            }
            Err(error) => members.iter().for_each(|at| answers[*at] = Err(error.clone())),
        }
    }
    answers
}

/// Several tabs may ask about one session at a time; the store is asked once.
async fn confirm(store: &SharedStore, questions: Vec<(SessionId, Epoch)>) -> Vec<Answer<Standing>> {
    let mut places = HashMap::new();
    let mut asked: Vec<(SessionId, Epoch)> = Vec::new();
    for question in &questions {
        places.entry(question.clone()).or_insert_with(|| {
            asked.push(question.clone());
            asked.len() - 1
        });
    }
    match store.confirm(&asked).await {
        Ok(standings) => {
            let standing = |question| places.get(question).and_then(|at| standings.get(*at));
            questions.iter().map(|question| flatten(standing(question).copied().map(Ok))).collect()
        }
        Err(error) => questions.iter().map(|_| Err(error.clone())).collect(),
    }
}
