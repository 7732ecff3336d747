package mittwald

import (
	"net/http"

	"slipway/access"
	"slipway/api"
	"slipway/clock"
)

// listZones lists what timezone of a schedule may be.
func (d *dialect) listZones(w http.ResponseWriter, _ *http.Request, _ access.Actor) error {
	return api.JSON(w, http.StatusOK, clock.Zones())
}

// listDomains: none is registered here. Hostnames are made with ingresses.
func (d *dialect) listDomains(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	if id := r.URL.Query().Get("projectId"); id != "" {
		if _, err := d.Projects.Get(r.Context(), by, id); err != nil {
			return err
		}
	}
	return page(w, &query{r: r}, 1000, []struct{}{})
}
