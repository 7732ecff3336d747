package pipeline

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// EndReason says in a word how a try of a step has ended.
type EndReason string

// Reasons.
const (
	EndDone         EndReason = "DONE"          // as it should
	EndExit         EndReason = "EXIT_CODE"     // by itself, with a code that is not 0
	EndSignal       EndReason = "SIGNAL"        // by a signal that we did not send
	EndMemory       EndReason = "OUT_OF_MEMORY" // it needed more than it may have
	EndTimeout      EndReason = "TIMEOUT"
	EndCancelled    EndReason = "CANCELLED"
	EndStopped      EndReason = "STOPPED"         // from outside
	EndHost         EndReason = "HOST_RESTARTED"  // the machine went down
	EndLost         EndReason = "LOST"            // how it ended is not known
	EndNotStarted   EndReason = "NOT_STARTED"     // its program could not be started
	EndBuild        EndReason = "BUILD_FAILED"    // for a reason in its source
	EndPullRefused  EndReason = "PULL_REFUSED"    // the registry does not give the image to that login
	EndNoImage      EndReason = "NO_IMAGE"        // there is no such image, or none for the platform
	EndPull         EndReason = "PULL_FAILED"     // the registry cannot be reached, or is out of order
	EndPushRefused  EndReason = "PUSH_REFUSED"    // the registry does not take the image from that login
	EndPush         EndReason = "PUSH_FAILED"     // the registry cannot be reached, or is out of order
	EndLoginRefused EndReason = "LOGIN_REFUSED"   // a vendor gives no login for the integration
	EndCheckout     EndReason = "CHECKOUT_FAILED" // the file system could not be brought to the commit
	EndDisk         EndReason = "DISK_FULL"
	EndInvalid      EndReason = "INVALID" // the action cannot be run as it is
	EndError        EndReason = "ERROR"   // anything else; the error tells
)

// reasoned is an error with the word for it.
type reasoned struct {
	error
	reason EndReason
}

func (e *reasoned) Unwrap() error { return e.error }

// refusedOr is the word for an error of a registry: whether the login was
// refused, there is no such image, or it fails otherwise.
func refusedOr(err error, refused, missing, otherwise EndReason) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return &reasoned{err, refused}
	case errdefs.IsNotFound(err):
		return &reasoned{err, missing}
	case errdefs.IsResourceExhausted(err):
		return err
	}
	return &reasoned{err, otherwise}
}

// reasonOf finds the word for why a step came to no end of its own.
func reasonOf(err error) EndReason {
	var r *reasoned
	var above *endedError
	var final *fatalError
	switch {
	case errdefs.IsResourceExhausted(err):
		return EndDisk
	case errors.As(err, &r):
		return r.reason
	case errors.As(err, &above):
		return EndStopped
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errTimeout):
		return EndTimeout
	case errdefs.IsUnauthorized(err):
		return EndLoginRefused
	case errors.As(err, &final):
		return EndInvalid
	}
	return EndError
}

// endReason is the word for the end of a container.
func endReason(e engine.Exit) EndReason {
	switch {
	case e.Reason == engine.ReasonCancel:
		return EndCancelled
	case e.Reason == engine.ReasonTimeout:
		return EndTimeout
	case e.Reason == engine.ReasonStop:
		return EndStopped
	case e.Reason == engine.ReasonHost:
		return EndHost
	case e.Reason == engine.ReasonLost:
		return EndLost
	case e.Code == 0 && e.Message == "":
		return EndDone
	case e.OOM:
		return EndMemory
	case e.Message != "":
		return EndNotStarted
	case e.Signal != 0:
		return EndSignal
	}
	return EndExit
}
