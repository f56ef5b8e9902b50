package natskv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/store"
)

// ErrInDoubt is in the error of a change that may have happened all the same: it was sent, and no answer came.
// Get tells.
var ErrInDoubt = errors.New("the change may have happened")

// ErrUnavailable is in the error of a call for which no server could answer in [Config.Patience].
var ErrUnavailable = errors.New("the bucket cannot be reached")

// explain adds a remedy where one is known.
func explain(err error) error {
	hint := ""
	switch {
	case err == nil, advice.In(err) != "":
		return err
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		hint = "enable JetStream on the server and for the account: jetstream {} with a store_dir"
	case errors.Is(err, client.ErrPermissionViolation):
		hint = "the NATS user needs to publish to $KV.BUCKET.> and $JS.API.>, and to subscribe to _INBOX.>"
	case errors.Is(err, errSettings):
		hint = "name another bucket, or change the setting with: nats stream edit"
	case isPlacement(err):
		hint = "a bucket needs as many servers with JetStream as it has replicas"
	case isFull(err) && !errors.Is(err, store.ErrFull):
		hint = "the server sets max_bytes of each bucket aside: raise max_file_store, or lower MaxBytes"
	case errors.Is(err, store.ErrFull):
		hint = "delete entries, or raise max_bytes of the bucket's stream"
	case errors.Is(err, client.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		hint = "enable JetStream on the server and for the account; in a cluster, more than half of the servers have to be up"
	case errors.Is(err, ErrUnavailable):
		hint = "is the server up, and more than half of a cluster's servers?"
	default:
		return err
	}
	return advice.On(err, hint)
}

// keyError and prefixError name the operation and its object.
func keyError(op, key string, err error) error {
	return explain(fmt.Errorf("%s %.80q: %w", op, key, err))
}

func prefixError(op, prefix string, err error) error {
	return explain(fmt.Errorf("%s keys with prefix %.80q: %w", op, prefix, err))
}

// Codes of JetStream that the client has no names for.
const (
	codeStoreFailed  = 10077 // could not be stored, also for exceeding the stream's limits
	codeNoResources  = 10023 // of the server
	codeNoSpace      = 10047 // on the server
	codeAccountSpace = 10002 // of the account
	codeNoPeers      = 10005
)

func apiError(err error) *jetstream.APIError {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api
	}
	if e, ok := errors.AsType[jetstream.JetStreamError](err); ok {
		return e.APIError()
	}
	return nil
}

// isWrongSequence reports whether the stream refused a change since the key's last message is not, or will not
// be, the one expected.
func isWrongSequence(err error) bool {
	api := apiError(err)
	return api != nil && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// isFull reports whether the stream, its server or its account has no room.
func isFull(err error) bool {
	api := apiError(err)
	if api == nil {
		return false
	}
	switch api.ErrorCode {
	case codeNoResources, codeNoSpace, codeAccountSpace:
		return true
	default:
		return api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, "maximum")
	}
}

// isMissing reports whether the stream does not hold the message that was asked for.
func isMissing(err error) bool { return errors.Is(err, jetstream.ErrMsgNotFound) }

// isPlacement reports whether a cluster has too few servers at the moment.
func isPlacement(err error) bool {
	api := apiError(err)
	return api != nil && (api.ErrorCode == codeNoPeers || strings.Contains(api.Description, "no suitable peers"))
}

// isFinal reports whether another attempt would say the same.
func isFinal(err error) bool {
	if errors.Is(err, errSettings) || errors.Is(err, store.ErrClosed) || errors.Is(err, client.ErrConnectionClosed) ||
		errors.Is(err, client.ErrMaxPayload) {
		return true
	}
	api := apiError(err)
	return api != nil && 400 <= api.Code && api.Code < 500 && api.Code != 408 && api.Code != 429 && !isPlacement(err)
}

// wasNotSent reports whether a request that failed has certainly reached nobody.
func wasNotSent(err error) bool {
	return errors.Is(err, client.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, client.ErrMaxPayload) || errors.Is(err, client.ErrReconnectBufExceeded) ||
		errors.Is(err, errOffline)
}

// ended returns why ctx is done, along with what went wrong last.
func ended(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if last == nil || errors.Is(last, cause) || errors.Is(last, context.Canceled) || errors.Is(last, context.DeadlineExceeded) {
		return cause
	}
	return fmt.Errorf("%w; last: %w", cause, last)
}
