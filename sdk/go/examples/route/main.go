// Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
package main

import "PLUGIN_NAME/rowmill"

func route(r *rowmill.Row) {
	if country, _ := r.Text("country"); country == "DE" {
		r.KeepTo("europe", country)
	} else {
		r.Keep()
	}
	r.Replace("email", "hidden")
}

func init() {
	rowmill.Register(rowmill.Transform{
		Sinks: []string{"europe"},
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("country", "email")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: route,
	})
}

func main() {}
