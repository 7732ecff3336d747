package mittwald

import (
	"errors"
	"net/http"
	"net/url"

	"slipway/access"
	"slipway/api"
	"slipway/stack"
)

func (d *dialect) rotateHook(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	token, err := d.Stacks.RotateHook(r.Context(), by, stackID(r), r.PathValue("serviceId"))
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, map[string]string{
		"token":      token,
		"webhookUrl": d.PublicURL + "/v2/stacks/" + url.PathEscape(string(stackID(r))) + "/webhooks/pull-image?token=" + token,
	})
}

// callHook is open to all: who knows the token may.
func (d *dialect) callHook(w http.ResponseWriter, r *http.Request, _ access.Actor) error {
	err := d.Stacks.CallHook(r.Context(), stackID(r), r.URL.Query().Get("token"))
	if errors.Is(err, stack.ErrTooOften) {
		fail(w, r, http.StatusTooManyRequests, stack.ErrTooOften)
		return nil
	}
	if err != nil {
		return err
	}
	return nothing(w)
}
