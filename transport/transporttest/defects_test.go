package transporttest

// defect is a way in which a transport can be wrong, and the tests that have to notice it.
type defect struct {
	name     string // "a transport that …"
	caughtBy []string
	policy   Overflow
	capacity int
	install  func(*labTransport)
}

const full = "ReceiverThatStopsHoldsUpItsSendersOnly"

var defects = []defect{
	{name: "loses", install: loses, caughtBy: []string{"Malformed", "ManySendersLoseNothing", "RequestAndReply", "ShuffledMessagesAreDeliveredOnce"}},
	{name: "delivers a frame once a topic", install: duplicates, caughtBy: []string{"TopicsReachSubscribersOnce"}},
	{name: "delivers to everybody", install: delivers(toEverybody), caughtBy: []string{"DirectReachesItsRecipientOnly"}},
	{name: "does not know itself", install: forgetsItself, caughtBy: []string{"DirectToItselfArrives"}},
	{name: "broadcasts to subscribers only", install: delivers(toSubscribers), caughtBy: []string{"BroadcastReachesAllOthers"}},
	{name: "swaps frames", install: swaps, caughtBy: []string{"OneSendersOrderIsKept"}},
	{name: "damages large frames", install: damages, caughtBy: []string{"FramesAreOpaque"}},
	{name: "keeps the sender's buffer", install: keeps(itself), caughtBy: []string{"FramesAreNobodyElses"}},
	{name: "gives recipients one buffer", install: keeps(clone), caughtBy: []string{"FramesAreNobodyElses"}},
	{name: "stops listening at a frame that it saw", install: stopsAtDuplicates, caughtBy: []string{"DuplicatesAreDeliveredOnce"}},
	{name: "stops listening at garbage", install: stopsAtGarbage, caughtBy: []string{"GarbageDoesNotStopTheListener", "Malformed"}},
	{name: "is deaf to contexts", install: deaf, caughtBy: []string{"ReceiveEndsWithItsContext", "SendEndsWithItsContext", full}},
	{name: "loses a frame to a context", install: losesToContexts, caughtBy: []string{"ReceiveEndsWithItsContext"}},
	{name: "accepts what nobody gets", install: accepts, caughtBy: []string{
		"UnknownRecipientIsAnError", "LeaveAndComeBack", "CloseOfAFullReceiverFreesItsSenders", "CutPathIsToldAndComesBack",
		"SilentPathIsNoticedAndComesBack", "PathSilentInOneDirectionIsNoticedAndComesBack",
	}},
	{name: "works before Start", install: worksUnstarted, caughtBy: []string{"UseBeforeStart"}},

	{name: "hangs on Close", install: hangs, caughtBy: []string{"CloseUnblocksReceive", "CloseTwiceAndUseAfterwards"}},
	{name: "leaves Receive waiting", install: leavesReceive, caughtBy: []string{"CloseUnblocksReceive", "CloseUnderLoad"}},
	{name: "closes once", install: closesOnce, caughtBy: []string{"CloseTwiceAndUseAfterwards", "CloseTwiceAtOnce"}},
	{name: "names other errors", install: namesOthers, caughtBy: []string{"CloseUnderLoad", "CloseFreesSendersToAFullReceiver"}},
	{name: "leaves a goroutine", install: leaves, caughtBy: []string{"CloseTwiceAtOnce"}},
	{name: "abandons what waits", install: abandons, caughtBy: []string{"CloseDrains"}},
	{name: "lets nobody come back", install: letsNobodyBack, caughtBy: []string{"LeaveAndComeBack", "RestartedPeerReplacesItsStrandedConnection"}},
	{name: "serves half of them", install: servesHalf, caughtBy: []string{"ThousandPeers"}},

	{name: "keeps subscriptions", install: keepsSubscriptions, caughtBy: []string{"UnsubscribedTopicsStop", "SubscriptionsUnderLoad", "SubscriptionsSurviveACut"}},
	{name: "loses when subscriptions change", install: losesOnSubscribe, caughtBy: []string{"SubscriptionsUnderLoad"}},

	{name: "keeps everything", capacity: 1 << 30, caughtBy: []string{full}},
	{name: "hides that it is full", policy: Refuses, install: hides, caughtBy: []string{full}},
	{name: "sheds and does not count", policy: Sheds, install: countsNothing, caughtBy: []string{full}},
	{name: "sends one at a time", install: oneAtATime, caughtBy: []string{full}},

	{name: "has no limit", install: unlimited, caughtBy: []string{"LargestFramePassesAndLargerIsRefused"}},
	{name: "names no limit", install: namesNoLimit, caughtBy: []string{"LargestFramePassesAndLargerIsRefused"}},
	{name: "dies of a large frame", install: diesOfLarge, caughtBy: []string{"LargestFramePassesAndLargerIsRefused"}},

	{name: "never recovers", install: neverRecovers, caughtBy: []string{
		"CutPathIsToldAndComesBack", "CutsUnderLoadDeliverOnceAndInOrder", "StrandedConnectionIsReplaced",
		"FlappingPathDeliversOnceAndInOrder", "SlowPathLosesNothing", "ReplayByTheCarrierIsDeliveredOnce",
	}},
	{name: "sends what it refused", install: sendsRefused, caughtBy: []string{"CutPathIsToldAndComesBack"}},
	{name: "sends late what was lost", install: sendsLate, caughtBy: []string{"FlappingPathDeliversOnceAndInOrder"}},
	{name: "loses what is out of order", install: wantsOrder, caughtBy: []string{"ReorderingByTheCarrierIsDeliveredOnce"}},
}
