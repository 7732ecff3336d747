package pipeline

import (
	"context"
	"testing"
)

// More may be under way than there were steps when it began.
func TestLeave(t *testing.T) {
	t.Parallel()
	c := newCrew(&handling{Runner: &Runner{}})
	for i := range 5 {
		c.run(t.Context(), i, func(ctx context.Context) settled {
			<-ctx.Done()
			return settled{}
		})
	}
	c.leave()
}
