package observe

import (
	"github.com/converge-agents/converge/llm"
)

// Model is what [Metrics] asks about an agent with a language model; an [llm.Agent] is one.
type Model interface{ Stats() llm.Stats }

// modelLabels are the names of the configuration.
type modelLabels struct{ agent, model string }

// AddModel includes an agent with a language model. The names become labels: take those of the configuration, of which
// there are few, and no IDs. Agents of the same names are added up.
func (m *Metrics) AddModel(agent, model string, a Model) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models == nil {
		m.models = map[modelLabels][]Model{}
	}
	labels := modelLabels{agent, model}
	m.models[labels] = append(m.models[labels], a)
}

// modelStats is the sum over the agents of the same names.
type modelStats struct {
	modelLabels
	llm.Stats
}

func (m *Metrics) modelStats() (all []modelStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for labels, agents := range m.models {
		sum := llm.Stats{Refused: map[llm.Reason]uint64{}}
		for _, a := range agents {
			addModel(&sum, a.Stats())
		}
		all = append(all, modelStats{labels, sum})
	}
	return all
}

// addModel adds up all but what is of today.
func addModel(sum *llm.Stats, s llm.Stats) {
	sum.Calls += s.Calls
	sum.Failures += s.Failures
	sum.Retries += s.Retries
	sum.Answers += s.Answers
	sum.InputTokens += s.InputTokens
	sum.OutputTokens += s.OutputTokens
	sum.Cost += s.Cost
	sum.Conversations += s.Conversations
	sum.FailedConversations += s.FailedConversations
	sum.Unheard += s.Unheard
	for reason, n := range s.Refused {
		sum.Refused[reason] += n
	}
}

// byModel is a family with a value for each agent and model, or several that another label tells apart.
func byModel(name, help, label string, read func(s llm.Stats, emit func(value float64, label ...string))) metric {
	labels := []string{"agent", "model"}
	if label != "" {
		labels = append(labels, label)
	}
	return counterBy(name, help, labels, func(s sample, emit func(float64, ...string)) {
		for _, m := range s.models {
			read(m.Stats, func(value float64, label ...string) {
				emit(value, append([]string{m.agent, m.model}, label...)...)
			})
		}
	})
}

func ofModel(get func(llm.Stats) uint64) func(llm.Stats, func(float64, ...string)) {
	return func(s llm.Stats, emit func(float64, ...string)) { emit(float64(get(s))) }
}

// modelMetrics are of agents with language models.
var modelMetrics = []metric{
	byModel("converge_llm_calls_total", "Calls of language models by outcome, each attempt.", "outcome", modelCalls),
	byModel("converge_llm_retries_total", "Calls of language models that repeat one that failed.", "",
		ofModel(func(s llm.Stats) uint64 { return s.Retries })),
	byModel("converge_llm_tokens_total", "Tokens by direction, guessed where the server does not say.", "direction", modelTokens),
	byModel("converge_llm_cost_total", "What these tokens cost, in the currency of the model's price.", "", modelCost),
	byModel("converge_llm_refused_total", "Function calls that models wanted and that became no decision.", "reason", modelRefusals),
	byModel("converge_llm_conversations_total", "Conversations by event.", "event", modelConversations),
	byModel("converge_llm_unheard_total", "Messages that models were not shown.", "",
		ofModel(func(s llm.Stats) uint64 { return s.Unheard })),
}

func modelCalls(s llm.Stats, emit func(float64, ...string)) {
	emit(float64(s.Calls-s.Failures), "answered")
	emit(float64(s.Failures), "failed")
}

func modelTokens(s llm.Stats, emit func(float64, ...string)) {
	emit(float64(s.InputTokens), "in")
	emit(float64(s.OutputTokens), "out")
}

func modelCost(s llm.Stats, emit func(float64, ...string)) { emit(float64(s.Cost) / 1e6) }

func modelRefusals(s llm.Stats, emit func(float64, ...string)) {
	for _, reason := range llm.Reasons() {
		emit(float64(s.Refused[reason]), string(reason))
	}
}

func modelConversations(s llm.Stats, emit func(float64, ...string)) {
	emit(float64(s.Conversations), "begun")
	emit(float64(s.FailedConversations), "failed")
}
