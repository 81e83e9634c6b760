//! The order of a sink's messages: messages come in, in binlog order; the messages of the next request go out.
//!
//! A message group has at most one message in flight: the next message waits until that one is accepted. So the order
//! within a group is kept whichever requests, or entries of them, fail. Messages without a group are sent in the order
//! in which they come; one that was not accepted is sent again before the others.

use std::collections::{HashMap, VecDeque};

/// The size limits of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The most messages.
    pub messages: usize,
    /// The most bytes of bodies and attributes.
    pub bytes: usize,
}

/// A message that waits to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending<T> {
    /// The message group; `None` where order does not count.
    pub group: Option<String>,
    /// Bytes of the body and the attributes, which count against [`RequestLimits::bytes`].
    pub bytes: usize,
    /// The message.
    pub item: T,
}

#[derive(Debug)]
struct GroupQueue<T> {
    pending: VecDeque<Pending<T>>,
    in_flight: bool,
}

/// A sink's messages that wait, by message group.
#[derive(Debug)]
pub struct OrderedQueue<T> {
    limits: RequestLimits,
    ungrouped: VecDeque<Pending<T>>,
    groups: HashMap<String, GroupQueue<T>>,
    /// Groups that have a message pending and none in flight, in the order in which they became ready. A group whose
    /// message was not accepted goes to the front.
    ready: VecDeque<String>,
    len: usize,
    bytes: usize,
    /// Bytes of the messages that may go into a request now.
    sendable_bytes: usize,
}

impl<T> OrderedQueue<T> {
    /// Creates an empty queue.
    pub fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            ungrouped: VecDeque::new(),
            groups: HashMap::new(),
            ready: VecDeque::new(),
            len: 0,
            bytes: 0,
            sendable_bytes: 0,
        }
    }

    /// Returns how many messages wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes of the messages that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many messages may go into a request now: those without a group, and the first of each group that
    /// has none in flight.
    pub fn sendable(&self) -> usize {
        self.ungrouped.len() + self.ready.len()
    }

    /// Returns the bytes of the messages that may go into a request now.
    pub fn sendable_bytes(&self) -> usize {
        self.sendable_bytes
    }

    /// Returns the group with the most messages that wait, and their number. Takes time linear in the number of
    /// groups.
    pub fn longest_group(&self) -> Option<(&str, usize)> {
        let longest = self.groups.iter().max_by_key(|(_, group_queue)| group_queue.pending.len());
        longest.map(|(group, group_queue)| (group.as_str(), group_queue.pending.len()))
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a message after all others of its group.
    pub fn push(&mut self, message: Pending<T>) {
        self.len += 1;
        self.bytes += message.bytes;
        let Some(group) = &message.group else {
            self.sendable_bytes += message.bytes;
            self.ungrouped.push_back(message);
            return;
        };
        match self.groups.get_mut(group) {
            Some(group_queue) => group_queue.pending.push_back(message),
            None => {
                let group = group.clone();
                self.sendable_bytes += message.bytes;
                self.ready.push_back(group.clone());
                self.groups.insert(group, GroupQueue { pending: VecDeque::from([message]), in_flight: false });
            }
        }
    }

    /// Passes the last message that waits in a group (or without a group, for `None`) to `join`, if there is one.
    /// `join` may add to the message, and increase its `bytes`.
    pub fn join_last(&mut self, group: Option<&str>, join: impl FnOnce(&mut Pending<T>)) {
        let last = match group {
            Some(group) => self.groups.get_mut(group).and_then(|group_queue| {
                let is_sendable = !group_queue.in_flight && group_queue.pending.len() == 1;
                Some((group_queue.pending.back_mut()?, is_sendable))
            }),
            None => self.ungrouped.back_mut().map(|last| (last, true)),
        };
        if let Some((last, is_sendable)) = last {
            let before = last.bytes;
            join(last);
            self.bytes += last.bytes - before;
            self.sendable_bytes += if is_sendable { last.bytes - before } else { 0 };
        }
    }

    /// Whether the messages that may go now fill a request by their number.
    pub fn has_full_request(&self) -> bool {
        self.sendable() >= self.limits.messages
    }

    /// Removes and returns the messages of the next request; an empty list if no message may go now. For each message
    /// the caller must then call one of [`OrderedQueue::accept`], [`OrderedQueue::requeue`] and
    /// [`OrderedQueue::requeue_split`].
    pub fn next_request(&mut self) -> Vec<Pending<T>> {
        let mut request: Vec<Pending<T>> = Vec::new();
        let mut bytes = 0;
        let RequestLimits { messages, bytes: bytes_max } = self.limits;
        let mut fits = |request: &[Pending<T>], next: &Pending<T>| {
            // A message that is too large by itself goes alone: the queue's answer says what is wrong.
            let fits = request.is_empty() || request.len() < messages && bytes + next.bytes <= bytes_max;
            if fits {
                bytes += next.bytes;
            }
            fits
        };
        while let Some(group) = self.ready.pop_front() {
            let group_queue = self.groups.get_mut(&group).expect("a ready group has a queue");
            let next = group_queue.pending.pop_front_if(|next| fits(&request, next));
            let Some(next) = next else {
                self.ready.push_front(group);
                break;
            };
            group_queue.in_flight = true;
            request.push(next);
        }
        while let Some(next) = self.ungrouped.pop_front_if(|next| fits(&request, next)) {
            request.push(next);
        }
        self.len -= request.len();
        self.bytes -= bytes;
        self.sendable_bytes -= bytes;
        request
    }

    /// Records that a group's message was accepted: the group's next message may go.
    pub fn accept(&mut self, group: Option<&str>) {
        let Some(group) = group else { return };
        let group_queue = self.groups.get_mut(group).expect("a message in flight keeps its group");
        debug_assert!(group_queue.in_flight, "one message of a group at a time");
        group_queue.in_flight = false;
        match group_queue.pending.front() {
            Some(next) => {
                self.sendable_bytes += next.bytes;
                self.ready.push_back(group.to_owned());
            }
            None => {
                self.groups.remove(group);
            }
        }
    }

    /// Puts back a message that was not accepted, before all others of its group.
    pub fn requeue(&mut self, message: Pending<T>) {
        self.len += 1;
        self.bytes += message.bytes;
        self.sendable_bytes += message.bytes;
        let Some(group) = &message.group else {
            self.ungrouped.push_front(message);
            return;
        };
        let group = group.clone();
        let group_queue = self.groups.get_mut(&group).expect("a message in flight keeps its group");
        debug_assert!(group_queue.in_flight, "one message of a group at a time");
        group_queue.in_flight = false;
        group_queue.pending.push_front(message);
        self.ready.push_front(group);
    }

    /// Puts back several messages in place of one that was not accepted, in their order, before all others of its
    /// group.
    pub fn requeue_split(&mut self, group: Option<&str>, messages: Vec<Pending<T>>) {
        let bytes = messages.iter().map(|message| message.bytes).sum::<usize>();
        self.len += messages.len();
        self.bytes += bytes;
        self.sendable_bytes += if group.is_none() { bytes } else { messages.first().map_or(0, |first| first.bytes) };
        let messages = messages.into_iter().rev();
        let Some(group) = group else {
            messages.for_each(|message| self.ungrouped.push_front(message));
            return;
        };
        let group_queue = self.groups.get_mut(group).expect("a message in flight keeps its group");
        debug_assert!(group_queue.in_flight, "one message of a group at a time");
        group_queue.in_flight = false;
        messages.for_each(|message| group_queue.pending.push_front(message));
        self.ready.push_front(group.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: RequestLimits = RequestLimits { messages: 10, bytes: 1000 };

    fn message(group: Option<u8>, bytes: usize, item: usize) -> Pending<usize> {
        Pending { group: group.map(|group| group.to_string()), bytes, item }
    }

    #[test]
    fn a_message_may_go_again_as_several() {
        for group in [None, Some(1)] {
            let mut groups = OrderedQueue::new(LIMITS);
            groups.push(message(group, 30, 1));
            let sent = groups.next_request().pop().expect("a message");
            groups.push(message(group, 10, 5));
            let parts = (2..5).map(|item| message(group, 10, item)).collect();
            groups.requeue_split(sent.group.as_deref(), parts);
            assert_eq!((groups.len(), groups.bytes()), (4, 40));
            let mut items = Vec::new();
            while !groups.is_empty() {
                for sent in groups.next_request() {
                    groups.accept(sent.group.as_deref());
                    items.push(sent.item);
                }
            }
            assert_eq!(items, [2, 3, 4, 5]);
        }
    }

    #[test]
    fn requests_are_filled_by_count_and_by_bytes() {
        let mut groups = OrderedQueue::new(LIMITS);
        for item in 0..25 {
            groups.push(message(None, 10, item));
        }
        assert_eq!(groups.next_request().len(), 10);
        groups.push(message(None, 900, 25));
        assert_eq!(groups.next_request().len(), 10);
        assert_eq!(groups.next_request().iter().map(|next| next.bytes).sum::<usize>(), 50 + 900);
        groups.push(message(None, 5000, 26));
        assert_eq!(groups.next_request().len(), 1, "too large by itself, it goes alone");
        assert!(groups.is_empty());
        assert_eq!(groups.bytes(), 0);
    }

    #[test]
    fn a_group_in_flight_takes_no_room_of_others() {
        let mut groups = OrderedQueue::new(LIMITS);
        for item in 0..50 {
            groups.push(message(Some(1), 10, item));
        }
        groups.push(message(Some(2), 10, 50));
        assert_eq!((groups.sendable(), groups.sendable_bytes()), (2, 20));
        let sent = groups.next_request();
        assert_eq!(sent.len(), 2);
        assert_eq!((groups.len(), groups.sendable(), groups.sendable_bytes()), (49, 0, 0));
        assert_eq!(groups.longest_group(), Some(("1", 49)));
        groups.accept(Some("1"));
        assert_eq!((groups.sendable(), groups.sendable_bytes()), (1, 10));
        groups.accept(Some("2"));
        assert_eq!(groups.longest_group(), Some(("1", 49)));
    }

    #[test]
    fn messages_join_the_last_of_their_group() {
        let mut groups = OrderedQueue::new(LIMITS);
        for (group, item) in [(1, 1), (2, 2), (1, 10), (1, 100)] {
            let mut next = Some(message(Some(group), 5, item));
            groups.join_last(Some(&group.to_string()), |last| {
                if let Some(next) = next.take_if(|next| last.bytes + next.bytes <= 10) {
                    last.bytes += next.bytes;
                    last.item += next.item;
                }
            });
            if let Some(next) = next {
                groups.push(next);
            }
        }
        assert_eq!((groups.len(), groups.bytes()), (3, 20));
        assert_eq!(groups.next_request(), [message(Some(1), 10, 11), message(Some(2), 5, 2)]);
        assert_eq!((groups.len(), groups.bytes()), (1, 5));
    }

    #[test]
    fn a_group_has_one_message_in_flight() {
        let mut groups = OrderedQueue::new(LIMITS);
        for item in 0..3 {
            groups.push(message(Some(1), 1, item));
        }
        let first = groups.next_request().remove(0);
        assert_eq!(first.item, 0);
        assert!(groups.next_request().is_empty());
        groups.requeue(first);
        assert_eq!(groups.next_request().remove(0).item, 0, "again, before the others");
        groups.accept(Some("1"));
        assert_eq!(groups.next_request().remove(0).item, 1);
    }

    proptest! {
        /// Each group's messages arrive in order, whichever entries fail and in whatever order answers come.
        #[test]
        fn order_survives_any_failures(
            messages in proptest::collection::vec((proptest::option::of(0u8..4), 1usize..400), 1..80),
            outcomes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u16>()), 1..50),
        ) {
            let mut groups = OrderedQueue::new(LIMITS);
            for (item, (group, bytes)) in messages.iter().enumerate() {
                groups.push(message(*group, *bytes, item));
            }
            let mut in_flight: Vec<Vec<Pending<usize>>> = Vec::new();
            let mut arrived = Vec::new();
            let mut outcomes = outcomes.into_iter();
            while arrived.len() < messages.len() {
                loop {
                    let heads = groups.ready.iter().map(|group| &groups.groups[group].pending[0]);
                    let sendable: usize = heads.chain(&groups.ungrouped).map(|message| message.bytes).sum();
                    prop_assert_eq!(groups.sendable_bytes(), sendable);
                    let request = groups.next_request();
                    if request.is_empty() { break; }
                    prop_assert!(request.len() <= LIMITS.messages);
                    prop_assert!(request.len() == 1 || request.iter().map(|m| m.bytes).sum::<usize>() <= LIMITS.bytes);
                    in_flight.push(request);
                }
                // When the random outcomes end, everything is accepted.
                let (which, failures) = outcomes.next().map_or((0, 0), |(index, bits)| (index.index(in_flight.len()), bits));
                for (entry, message) in in_flight.swap_remove(which).into_iter().enumerate() {
                    if failures >> entry & 1 == 1 {
                        groups.requeue(message);
                    } else {
                        groups.accept(message.group.as_deref());
                        arrived.push((message.group, message.item));
                    }
                }
            }
            prop_assert!(groups.is_empty());
            prop_assert_eq!((groups.bytes(), groups.sendable_bytes(), groups.sendable()), (0, 0, 0));
            for group in 0u8..4 {
                let name = Some(group.to_string());
                let items: Vec<usize> = arrived.iter().filter(|(g, _)| *g == name).map(|(_, item)| *item).collect();
                prop_assert!(items.is_sorted(), "group {group}: {items:?}");
            }
        }
    }
}
